/**
 * Every kind of id in one table. An id is a prefix and 24 lowercase hex digits: 12 of time (milliseconds),
 * 12 of chance, so ids made later sort later. Time and chance are arguments.
 */

const ID_PREFIXES = {
  org: 'org_',
  api_key: 'key_',
  agent: 'agt_',
  revision: 'rev_',
  credential: 'cred_',
  session: 'ses_',
  computer: 'cmp_',
  command: 'cmd_',
  published_port: 'cpp_',
  snapshot: 'snp_',
  terminal: 'term_',
  project: 'prj_',
  deployment: 'dep_',
  release: 'rel_',
  event: 'evt_',
  turn: 'trn_',
  client_token: 'ctk_',
  destination: 'dst_',
  destination_secret: 'dsc_',
  delivery: 'dlv_',
  node: 'nod_',
  machine: 'mch_',
  request: 'req_',
} as const;

export type IdKind = keyof typeof ID_PREFIXES;

/** A source of ids; made once in `server.ts` from the clock and the system's randomness. */
export type NewId = (kind: IdKind) => string;

/** @param random_hex 12 lowercase hex digits of chance. */
export function makeId(kind: IdKind, now_ms: number, random_hex: string): string {
  return ID_PREFIXES[kind] + now_ms.toString(16).padStart(12, '0') + random_hex;
}

/** Whether `text` has the form of an id of this kind. */
export function isId(kind: IdKind, text: string): boolean {
  const prefix = ID_PREFIXES[kind];
  return text.startsWith(prefix) && /^[0-9a-f]{24}$/.test(text.slice(prefix.length));
}

/** An event's id follows from its place in the log, so it is known before the append and needs no index. */
export function eventId(stream: string, seq: number): string {
  return ID_PREFIXES.event + place(stream, seq);
}

/** A turn's id follows from the seq of its `turn.started`: a retried start names the same turn. */
export function turnId(stream: string, started_seq: number): string {
  return ID_PREFIXES.turn + place(stream, started_seq);
}

/** The seq that an event's id names, or undefined when the id is not of this stream. */
export function seqOfEventId(stream: string, id: string): number | undefined {
  if (!isId('event', id) || id.slice(4, 20) !== stream.slice(-16)) return undefined;
  return Number.parseInt(id.slice(20), 16);
}

/** The seq of the `turn.started` that a turn's id names, or undefined when the id is not of this stream. */
export function seqOfTurnId(stream: string, id: string): number | undefined {
  if (!isId('turn', id) || id.slice(4, 20) !== stream.slice(-16)) return undefined;
  return Number.parseInt(id.slice(20), 16);
}

function place(stream: string, seq: number): string {
  return stream.slice(-16) + seq.toString(16).padStart(8, '0');
}
