/** What every part of a running node shares: made once in server.ts, passed in, never reached for. */
import type { Poster } from '../net/post.ts';
import type { Blobs } from '../resource/blob.ts';
import type { Driver } from '../resource/computer/driver.ts';
import type { ComputerSpec } from '../resource/computer/spec.ts';
import type { DeliveryRules } from '../resource/delivery.ts';
import type { NewId } from '../resource/id.ts';
import type { Provider } from '../resource/model.ts';
import type { MasterKeys } from '../secret/master-keys.ts';
import type { Sealer } from '../secret/seal.ts';
import type { Rules } from '../session/rules.ts';
import type { Database } from '../store/ground/database.ts';
import type { Follow } from '../store/follow.ts';
import type { ComputerLog, Log } from '../store/log.ts';
import type { Deltas } from './deltas.ts';

export type Logger = {
  debug: (fields: object, message: string) => void;
  warn: (fields: object, message: string) => void;
  error: (fields: object, message: string) => void;
};

export type Runtime = {
  /** This process among the nodes of the cluster, `nod_…`; new at each start. */
  node: string;
  /** Where this node keeps computers; the same after a restart. */
  machine: string;
  database: Database;
  log: Log;
  computer_log: ComputerLog;
  follow: Follow;
  deltas: Deltas;
  rules: Rules;
  /** The database's clock, estimated, in ms since the epoch. */
  now: () => number;
  newId: NewId;
  /** In 0..1. */
  random: () => number;
  /** Named after every side effect; inert unless `OVERWINTER_FAILPOINT` names it. */
  fail: (failpoint: string) => Promise<void>;
  logger: Logger;
  sealer: Sealer;
  /** What `sealer` seals and opens with. */
  master_keys: MasterKeys;
  provider: Provider;
  /** The server's own model key, for agents without one (`managed`). */
  managed_key: string | undefined;
  /** For computers that ask for none. */
  driver: Driver;
  /** All that this server runs, by name. */
  drivers: ReadonlyMap<string, Driver>;
  /** The base images that were there when this server started, by driver. */
  images: ReadonlyMap<string, readonly string[]>;
  blobs: Blobs;
  /** Sends webhooks to addresses that may be sent to. */
  poster: Poster;
  settings: Settings;
};

export type Settings = {
  lease_ttl_ms: number;
  poll_ms: number;
  turns_at_once_max: number;
  drain_ms: number;
  command_timeout_ms: number;
  output_bytes_max: number;
  /** What the computers of sessions are made of. */
  session_computer: ComputerSpec;
  computers: {
    /** Of one command's output, for each of the two streams; what is over is dropped and said. */
    exec_output_bytes_max: number;
    processes_max: number;
    /** Of one org, but those of sessions. */
    org_max: number;
  };
  deployments: {
    /** Of one upload. */
    bundle_bytes_max: number;
  };
  webhooks: DeliveryRules & {
    /** Requests of this node under way at once. */
    at_once_max: number;
    /** To one endpoint: under way at once, and started in a second. */
    window_max: number;
    per_second_max: number;
  };
};
