/** The port for large things: computer snapshots and full tool output. A name is `[a-z0-9_/.-]+`. */
export interface Blobs {
  /** Stores all of `content` durably before it resolves; replaces what had the name. Returns the size in bytes. */
  put(name: string, content: AsyncIterable<Uint8Array>): Promise<number>;
  /** The bytes from `start` to the end, or undefined when there is no such blob. */
  get(name: string, start?: number): Promise<AsyncIterable<Uint8Array> | undefined>;
  /** Idempotent. */
  delete(name: string): Promise<void>;
  /** All whose names begin with `prefix` and a slash. Idempotent. */
  deleteAll(prefix: string): Promise<void>;
}
