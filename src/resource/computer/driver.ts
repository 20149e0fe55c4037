/**
 * The port to computers. A driver keeps computers; an awake one is a `Computer` handle that runs commands.
 * A computer's files outlive its processes; the server's death ends the processes and keeps the files.
 */

import type { Duplex } from 'node:stream';
import type { NetworkPolicy } from './spec.ts';

export type DriverName = 'bwrap' | 'docker' | 'process';

/** Told the name of each side effect, right after it; where tests ask for that, the process ends there. */
export type Fail = (failpoint: string) => void | Promise<void>;

/** What names a computer's place to its driver: plain JSON that any node can hold. */
export type Reference = { [key: string]: string | number };

/** The ceiling of one computer. */
export type ComputerLimits = {
  memory_bytes: number;
  processes_max: number;
  /** In hundredths of a core. */
  cpu_percent: number;
  /** For everything writable together. */
  disk_bytes: number;
};

export type ExecSpec = {
  /** A bash script of any length. */
  script: string;
  /** Absolute, inside the computer; default `/workspace`. */
  cwd?: string;
  env?: Record<string, string>;
  /** Fed to the script's standard input, which then ends. Without it standard input is empty. A stream is read no faster than the script does. */
  stdin?: Uint8Array | AsyncIterable<Uint8Array>;
  /** After this the script's process group is killed; beyond 2^31 - 1 there is no limit. */
  timeout_ms: number;
  /** Aborting kills the process group; `exit` settles all the same. */
  signal?: AbortSignal;
};

/** How a script ended. `lost` = the computer's processes died under it (hibernate, out of memory, crash). */
export type Exit = {
  outcome: 'exited' | 'timeout' | 'aborted' | 'lost';
  exit_code: number | null;
  /** The kernel ended something of the computer for want of memory while the script ran; the computer lives on. */
  out_of_memory?: true;
};

export type OutputChunk = { stream: 'stdout' | 'stderr'; data: Uint8Array };

/** A running script. `output` must be drained; it ends no later than shortly after `exit` settles. */
export type Execution = { output: AsyncIterable<OutputChunk>; exit: Promise<Exit> };

export type PtySpec = {
  rows: number;
  cols: number;
  /** Absolute, inside the computer. */
  cwd?: string;
  env?: Record<string, string>;
};

/** A login shell of the computer on a pseudo-terminal of its own. */
export interface Terminal {
  /** What the terminal shows, as it comes; must be drained. Ends after `exit` settles. */
  output: AsyncIterable<Uint8Array>;
  /** Resolves when the terminal has taken it; what comes after its end is dropped. */
  write(data: Uint8Array): Promise<void>;
  /** The programs in it get SIGWINCH. */
  resize(rows: number, cols: number): Promise<void>;
  exit: Promise<Exit>;
  /** Hangs up: the shell and what runs in its session end. Idempotent. */
  close(): void;
}

/** What a computer uses now; a field that its driver cannot tell is null. */
export type ComputerUsage = {
  /** Since the wake. */
  cpu_seconds: number | null;
  memory_bytes: number | null;
  disk_bytes: number | null;
  processes: number | null;
  uptime_ms: number;
};

/** An awake computer. An exec ends `lost` when its processes are gone, be it before or while it runs. */
export interface Computer {
  readonly generation: number;
  /** The exec ends on the script's exit, never on EOF: a background child may hold the output open. */
  exec(spec: ExecSpec): Execution;
  /** @throws Unsupported where the driver has no terminals. */
  pty(spec: PtySpec): Promise<Terminal>;
  /**
   * A connection to a TCP port on the computer's loopback.
   * @throws ConnectionRefused when nothing listens there.
   */
  connect(port: number): Promise<Duplex>;
  usage(): Promise<ComputerUsage>;
  /** Whether the processes live. */
  alive(): boolean;
  /** Ends every process of the computer; its files stay. Idempotent; resolves when none is left. */
  hibernate(): Promise<void>;
}

export type WakeRequest = {
  /** `cmp_…` */
  id: string;
  /** What an earlier wake returned, or null for a computer that never woke. */
  reference: Reference | null;
  /**
   * The last generation in the log; files of an older one are stale and discarded. Newer ones are of a wake that its node did not live
   * to log, and hold all that the logged ones held. 0 = none yet.
   */
  from_generation: number;
  /** The generation that this wake begins; written beside the files. */
  generation: number;
  /** Opens the last snapshot, to be restored when the files are gone or ruined; null when there is none. */
  snapshot: (() => Promise<AsyncIterable<Uint8Array>>) | null;
  limits: ComputerLimits;
  network: NetworkPolicy;
  /** The base image by name; null = the driver's own root file system. */
  image: string | null;
};

export type Woken = {
  computer: Computer;
  reference: Reference;
  /** `kept`: the files were there; `restored`: they came from the snapshot; `empty`: there was nothing. */
  files: 'kept' | 'restored' | 'empty';
};

/** What a driver can do, and what bounds it; shown at start and in `/healthz`. */
export type Capabilities = {
  isolation: 'namespaces' | 'none';
  /** How memory, process and CPU ceilings hold: by control groups, by resource limits, or not at all. */
  limits: 'cgroup-v2' | 'cgroup-v1' | 'rlimit' | 'none';
  /**
   * How the disk ceiling holds. `held`: a write beyond it fails, and the computer lives on. `counted`: the computer is ended
   * some time after it. Of new computers; older ones keep the way that they were made with.
   */
  disk: 'held' | 'counted' | 'none';
  /** `root`: each computer has a host uid of its own; `user`: the server's own user. */
  identity: 'root' | 'user' | 'none';
  /** Whether a computer may reach anything outside, always through the egress proxy. */
  egress: boolean;
  terminals: boolean;
  /** Base images that computers may be made from, by name. */
  images: string[];
  notes: string[];
};

/** A way to keep computers. The contract is test/conformance/driver.ts; every driver passes it. */
export interface Driver {
  readonly name: DriverName;
  /** Starts a throw-away computer. `reason` is one sentence for the operator: what to install or set. */
  probe(): Promise<{ usable: true; capabilities: Capabilities } | { usable: false; reason: string }>;
  /** Creates or wakes; idempotent by id and generation. Ends processes that a former life left behind. */
  wake(request: WakeRequest): Promise<Woken>;
  /**
   * The writable files of a computer as a compressed archive, or null when they are gone. Those of an awake one are read while it
   * stands still, where the driver can hold it. Reading it to the end is the caller's part.
   */
  snapshot(id: string, reference: Reference): Promise<AsyncIterable<Uint8Array> | null>;
  /** Ends the computer's processes, also those that a former life left behind, running or held; files stay. Idempotent. */
  quieten(id: string): Promise<void>;
  /** Removes processes and every byte. Idempotent. */
  destroy(id: string, reference: Reference | null): Promise<void>;
  /** The ids of all computers of this installation that have files or processes on this machine. */
  inventory(): Promise<string[]>;
  /** Ends every computer of this process; files stay. */
  close(): Promise<void>;
}

/** The computer's processes are gone, also when a wake could not start them. Waking it again is the caller's choice. */
export class ComputerLost extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'ComputerLost';
  }
}

/** The way out of computers: a proxy for HTTP and CONNECT that reaches only what the policy names. */
export interface Egress {
  /**
   * Serves one computer on a unix socket at `path`, which does not exist yet.
   * @param computer its id, for the log.
   */
  serve(path: string, policy: NetworkPolicy, computer: string): Promise<{ close(): Promise<void> }>;
}

/** Nothing listens on the port. */
export class ConnectionRefused extends Error {
  constructor(port: number) {
    super(`nothing listens on port ${port} of the computer`);
    this.name = 'ConnectionRefused';
  }
}

/** The driver cannot do it; the message says what, and which setting would help. */
export class Unsupported extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'Unsupported';
  }
}

/** The driver, or its host, has too much to do; what was asked for may be asked again. */
export class DriverBusy extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'DriverBusy';
  }
}
