/**
 * Everyone who looks at what one source shows. It goes at the pace of its fastest viewer, and freely without one; a viewer that falls
 * too far behind the fastest, or takes nothing at all, is dropped, so no slow one holds up the others, and none the source for long.
 */

/** Why a viewer sees no more. `lost`: the computer's processes have ended; `closed`: a viewer asked for it. */
export type TerminalEnd = 'exited' | 'lost' | 'closed' | 'idle' | 'stopping' | 'slow';

/** Whoever looks. */
export type Viewer = {
  /** At most `PIECE_BYTES_MAX` at a time; resolves when it is taken, rejects when the viewer is gone. */
  show: (data: Uint8Array) => Promise<void>;
  /** Called once at most, and not after it has left; nothing is shown after it. */
  end: (why: TerminalEnd) => void;
};

export type AudienceBounds = {
  /** How long viewers may take nothing before they are dropped. */
  stall_ms: number;
  viewers_max: number;
  /** What may wait for one viewer while another is ahead. */
  backlog_bytes_max: number;
};

type Seat = { viewer: Viewer; waiting_bytes: number };

export type Audience = {
  /** Undefined when there are too many. */
  seat: (viewer: Viewer) => Seat | undefined;
  leave: (seat: Seat) => void;
  deliver: (seat: Seat, data: Uint8Array) => void;
  deliverAll: (data: Uint8Array) => void;
  /** Resolves when the fastest viewer keeps up; drops them all when none takes anything for too long. */
  pace: () => Promise<void>;
  dismiss: (why: TerminalEnd) => void;
  size: () => number;
};

export const PIECE_BYTES_MAX = 65_536;
/** What may wait for the fastest viewer before the source waits too. */
const AHEAD_BYTES_MAX = 262_144;

/** @param emptied called whenever the last viewer has gone. */
export function createAudience(bounds: AudienceBounds, emptied: () => void): Audience {
  const seats = new Set<Seat>();
  let moved = Promise.withResolvers<void>();

  /** Something was taken, or someone left: who waits for that looks again. */
  function move(): void {
    moved.resolve();
    moved = Promise.withResolvers<void>();
  }

  function drop(seat: Seat, why?: TerminalEnd): void {
    if (!seats.delete(seat)) return;
    if (why !== undefined) seat.viewer.end(why);
    if (seats.size === 0) emptied();
    move();
  }

  function deliver(seat: Seat, data: Uint8Array): void {
    for (let from = 0; from < data.length && seats.has(seat); from += PIECE_BYTES_MAX)
      deliverPiece(seat, data.subarray(from, from + PIECE_BYTES_MAX));
  }

  function deliverPiece(seat: Seat, piece: Uint8Array): void {
    seat.waiting_bytes += piece.length;
    if (seat.waiting_bytes > bounds.backlog_bytes_max) return drop(seat, 'slow');
    const taken = (): void => {
      seat.waiting_bytes -= piece.length;
      move();
    };
    seat.viewer.show(piece).then(taken, () => drop(seat));
  }

  async function pace(): Promise<void> {
    while (seats.size > 0 && [...seats].every((seat) => seat.waiting_bytes > AHEAD_BYTES_MAX)) {
      if (await within(moved.promise, bounds.stall_ms)) continue;
      for (const seat of seats) drop(seat, 'slow');
    }
  }

  return {
    seat: (viewer) => {
      if (seats.size >= bounds.viewers_max) return undefined;
      const seat: Seat = { viewer, waiting_bytes: 0 };
      seats.add(seat);
      return seat;
    },
    leave: (seat) => drop(seat),
    deliver,
    deliverAll: (data) => {
      for (const seat of seats) deliver(seat, data);
    },
    pace,
    dismiss: (why) => {
      for (const seat of seats) drop(seat, why);
    },
    size: () => seats.size,
  };
}

/** Whether it settled in time. */
export async function within(promise: Promise<unknown>, bound_ms: number): Promise<boolean> {
  const late = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => late.resolve(false), bound_ms);
  const settled = await Promise.race([promise.then(() => true), late.promise]);
  clearTimeout(timer);
  return settled;
}
