/** The rows as the code sees them. Bigints arrive as numbers, `json` as parsed values, `timestamptz` as dates. */
import type { ColumnType, Generated, Kysely } from 'kysely';

type Time = ColumnType<Date, Date | string | undefined, Date | string>;
type NullableTime = ColumnType<Date | null, Date | string | null | undefined, Date | string | null>;
/** Written as text by one serializer; read back parsed. */
type Json<T = unknown> = ColumnType<T, string | null, string | null>;

export type Tables = {
  setting: { name: string; value: string };
  org: {
    id: string;
    name: string;
    created_at: Time;
    /** Raised with every revocation of a key. */
    key_revision: Generated<number>;
  };
  api_key: {
    id: string;
    org: string;
    name: string;
    public_id: string;
    digest: Uint8Array;
    scopes: string[];
    created_at: Time;
    expires_at: NullableTime;
    last_used_at: NullableTime;
    revoked_at: NullableTime;
  };
  credential: {
    id: string;
    org: string;
    provider: string;
    name: string | null;
    last4: string;
    sealed: string;
    is_default: Generated<boolean>;
    created_at: Time;
  };
  agent: {
    id: string;
    org: string;
    name: string;
    runtime: string;
    prompt: string;
    prompt_hash: string;
    model: string;
    revision: number;
    credential_id: string | null;
    limits: Json;
    created_at: Time;
    updated_at: Time;
  };
  revision: {
    id: string;
    org: string;
    agent_id: string;
    number: number;
    digest: string;
    prompt: string;
    model: string;
    created_at: Time;
  };
  stream: {
    id: string;
    org: string;
    head: Generated<number>;
    hash: Generated<Uint8Array>;
    last_ts: NullableTime;
    status: Generated<string>;
    state: Json;
    state_seq: Generated<number>;
    last_turn: Json;
    usage: Json;
    due_at: NullableTime;
    prefers_node: string | null;
    epoch: Generated<number>;
    /** Raised with every change of the stream's destinations. */
    destinations: Generated<number>;
    lease_node: string | null;
    lease_at: NullableTime;
    forked_from: string | null;
    kind: Generated<string>;
    deleted_at: NullableTime;
  };
  session: {
    id: string;
    org: string;
    agent_id: string;
    key: string | null;
    credential_id: string | null;
    snapshot: Json;
    limits: Json;
    metadata: Json;
    created_at: Time;
  };
  event: {
    stream: string;
    seq: number;
    id: string;
    org: string;
    type: string;
    level: string;
    turn_id: string | null;
    epoch: number | null;
    actor: Json;
    source: string | null;
    refs: Json;
    idempotency_key: string | null;
    ts: Time;
    body: Json;
    body_bytes: number;
    content_ref: string | null;
    hash: Uint8Array;
  };
  blob: { stream: string; seq: number; body: string };
  idempotency: {
    org: string;
    route: string;
    key: string;
    body_sha256: Uint8Array;
    resource: string;
    created_at: Time;
  };
  client_token: {
    id: string;
    org: string;
    session_id: string;
    digest: Uint8Array;
    scopes: string[];
    created_at: Time;
    expires_at: Date;
    revoked_at: NullableTime;
    /** The API key that asked for it; null for those from before this was noted. */
    minted_by: string | null;
  };
  endpoint: {
    org: string;
    origin: string;
    failures: Generated<number>;
    open_until: NullableTime;
    /** When a destination last came to it, to the minute. */
    used_at: Time;
  };
  destination: {
    id: string;
    org: string;
    stream: string | null;
    agent_id: string | null;
    /** From 1 up, unique among the destinations of one session, agent or org. */
    slot: number;
    url: string;
    origin: string;
    level: string;
    types: string[] | null;
    include_raw: boolean;
    enabled: boolean;
    created_after_seq: Generated<number>;
    /** Raised with every change of its secrets. */
    secrets: Generated<number>;
    created_at: Time;
    updated_at: Time;
  };
  destination_secret: {
    id: string;
    org: string;
    destination_id: string;
    sealed: string;
    expires_at: NullableTime;
    created_at: Time;
  };
  delivery: {
    stream: string;
    id: string;
    org: string;
    seq: number;
    destination_id: string;
    origin: string;
    status: Generated<string>;
    attempts: Generated<number>;
    attempts_before: Generated<number>;
    due_at: NullableTime;
    node: string | null;
    last_attempt_at: NullableTime;
    /** When it was last asked for again: its age counts from then. */
    asked_at: NullableTime;
    response_code: number | null;
    response_body: string | null;
    error: string | null;
    created_at: Time;
    updated_at: Time;
  };
  node: { id: string; machine: string; started_at: Time; alive_until: Date };
  computer: {
    id: string;
    org: string;
    session_id: string | null;
    name: string;
    template_id: string;
    created_at: Time;
    deleted_at: NullableTime;
    idle_timeout_s: Generated<number>;
    metadata: Json;
    preview_digest: Uint8Array | null;
  };
  computer_env: { id: string; org: string; sealed: string };
  command: {
    id: string;
    org: string;
    computer_id: string;
    source: string;
    status: string;
    node: string;
    timeout_ms: number;
    started_at: Time;
    ended_at: NullableTime;
    exit_code: number | null;
    stdout_bytes: Generated<number>;
    stderr_bytes: Generated<number>;
    error_type: string | null;
  };
  snapshot: {
    id: string;
    org: string;
    computer_id: string;
    name: string | null;
    blob: string;
    spec: Json;
    bytes: Generated<number>;
    ready: Generated<boolean>;
    created_at: Time;
  };
  published_port: {
    id: string;
    org: string;
    computer_id: string;
    port: number;
    created_at: Time;
    wakes: Generated<boolean>;
    start_command: string | null;
  };
  project: { id: string; org: string; name: string; is_default: Generated<boolean>; created_at: Time };
  deployment: {
    id: string;
    org: string;
    project_id: string;
    name: string;
    description: Generated<string>;
    machine: string;
    wanted: Generated<string>;
    asked: Generated<number>;
    done: Generated<number>;
    releases: Generated<number>;
    serving: string | null;
    broken: Generated<boolean>;
    last_error: string | null;
    created_at: Time;
    updated_at: Time;
    deployed_at: NullableTime;
  };
  release: {
    id: string;
    org: string;
    machine: string;
    deployment_id: string | null;
    number: number | null;
    status: Generated<string>;
    settings: Json;
    env_names: Generated<string[]>;
    attempts: Generated<number>;
    computer_id: string | null;
    port: number | null;
    created_at: Time;
  };
  release_env: { id: string; org: string; sealed: string };
  deployment_log: {
    deployment_id: string;
    seq: Generated<number>;
    release: number;
    phase: string;
    stream: string;
    text: string;
    created_at: Time;
  };
};

export type Db = Kysely<Tables>;
