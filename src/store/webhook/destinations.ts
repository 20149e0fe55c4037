/**
 * Destinations as rows. Whatever changes what a session's destinations want raises the session's version of them, under its row lock:
 * an append that was built before is refused and built again, so none misses a destination that it should have seen. Those of an
 * agent and of an org hold for appends that begin after the change.
 */
import { sql } from 'kysely';
import {
  DESTINATIONS_MAX,
  SECRET_OVERLAP_S,
  type DestinationLevel,
  type DestinationScope,
} from '../../resource/destination.ts';
import type { Db } from '../ground/tables.ts';

export type NewDestination = {
  id: string;
  url: string;
  /** Of the URL; with the org it names the endpoint. */
  origin: string;
  level: DestinationLevel;
  types: string[] | null;
  include_raw: boolean;
  enabled: boolean;
  secret: NewSecret | null;
};

/** Sealed for {org, table: 'destination_secret', id, column: 'sealed'}. */
export type NewSecret = { id: string; sealed: string };

export type DestinationRow = Omit<NewDestination, 'secret'> & {
  org: string;
  stream: string | null;
  agent_id: string | null;
  has_secret: boolean;
  created_after_seq: number;
  created_at: Date;
  updated_at: Date;
  /** Consecutive failures of the endpoint, over all its destinations. */
  failures: number;
  /** Raised with every change of its secrets. */
  secrets: number;
  /** Until when the endpoint's breaker holds deliveries back. */
  open_until: Date | null;
};

/**
 * The clauses `dest` (the new rows), their endpoints and secrets, for a statement that makes a session.
 * @param session a relation with the new stream's id; @param org a parameter; @param first the number of the first of the nine
 * parameters that `destinationValues` gives.
 */
export function INSERT_DESTINATIONS(session: string, org: string, first: number): string {
  const $ = (offset: number, type: string): string => `$${first + offset}::${type}[]`;
  return `dest as (
  insert into destination (id, org, stream, slot, url, origin, level, types, include_raw, enabled)
  select n.id, ${org}, s.id, n.slot, n.url, n.origin, n.level, string_to_array(n.types, ' '), n.include_raw, n.enabled
  from ${session} s cross join unnest(${$(0, 'text')}, ${$(1, 'text')}, ${$(2, 'text')}, ${$(3, 'text')}, ${$(4, 'text')},
    ${$(5, 'boolean')}, ${$(6, 'boolean')}) with ordinality as n(id, url, origin, level, types, include_raw, enabled, slot)
  returning id, origin, level, types, enabled, created_after_seq
), ends as (
  ${useEndpoints(org, 'dest')}
), secrets as (
  insert into destination_secret (id, org, destination_id, sealed)
  select k.id, ${org}, d.id, k.sealed
  from dest d join unnest(${$(0, 'text')}, ${$(7, 'text')}, ${$(8, 'text')}) as k(destination_id, id, sealed)
    on k.destination_id = d.id and k.id is not null`;
}

/**
 * The endpoints that new destinations lead to are kept (`removeEndpoints`). One that was used lately is not touched, so that sessions that
 * are made at once do not wait for each other.
 */
function useEndpoints(org: string, destinations: string): string {
  return `insert into endpoint (org, origin)
  select distinct ${org}, d.origin from ${destinations} d
  where not exists (select from endpoint e where e.org = ${org} and e.origin = d.origin and ${USED_LATELY})
  order by 1, 2
  on conflict (org, origin) do update set used_at = clock_timestamp()`;
}

/** Much longer than a statement lasts, much shorter than the time after which `removeEndpoints` is asked to remove. */
const USED_LATELY = `e.used_at > clock_timestamp() - interval '10 minutes'`;

export function destinationValues(destinations: NewDestination[]): unknown[] {
  const column = <T>(of: (destination: NewDestination) => T): T[] => destinations.map(of);
  return [
    column(({ id }) => id),
    column(({ url }) => url),
    column(({ origin }) => origin),
    column(({ level }) => level),
    column(({ types }) => types?.join(' ') ?? null),
    column(({ include_raw }) => include_raw),
    column(({ enabled }) => enabled),
    column(({ secret }) => secret?.id ?? null),
    column(({ secret }) => secret?.sealed ?? null),
  ];
}

/**
 * Adds a destination. One of a session gets the events that are appended from now on: it stands after the session's present head.
 * @returns false when the scope has as many as it may have.
 */
export async function insertDestination(
  db: Db,
  org: string,
  scope: DestinationScope,
  destination: NewDestination,
): Promise<boolean> {
  // Whoever was quicker has the slot: the next free one is tried, while there is one.
  for (let tries = 0; tries <= DESTINATIONS_MAX; tries += 1) {
    if (await tryInsert(db, org, scope, destination)) return true;
    if ((await listDestinations(db, org, scope)).length >= DESTINATIONS_MAX) return false;
  }
  return false;
}

async function tryInsert(
  db: Db,
  org: string,
  scope: DestinationScope,
  destination: NewDestination,
): Promise<boolean> {
  const { id, url, origin, level, types, include_raw, enabled, secret } = destination;
  const stream = scope.kind === 'session' ? scope.stream : null;
  const agent_id = scope.kind === 'agent' ? scope.agent_id : null;
  const made = await sql<{ id: string }>`
    with st as (
      update stream set destinations = destinations + 1 where org = ${org} and id = ${stream} returning head
    ), dest as (
      insert into destination (id, org, stream, agent_id, slot, url, origin, level, types, include_raw, enabled, created_after_seq)
      select ${id}, ${org}, ${stream}, ${agent_id}, slot, ${url}, ${origin}, ${level}, ${types}::text[], ${include_raw}::boolean,
        ${enabled}::boolean, coalesce((select head from st), 0)
      from generate_series(1, ${DESTINATIONS_MAX}::int) slot
      where not exists (select from destination where ${isOf(scope, org)} and destination.slot = slot.slot)
      order by slot limit 1
      on conflict do nothing
      returning id
    ), ends as (
      insert into endpoint (org, origin) select ${org}, ${origin} from dest
      where not exists (select from endpoint e where e.org = ${org} and e.origin = ${origin} and ${sql.raw(USED_LATELY)})
      on conflict (org, origin) do update set used_at = clock_timestamp()
    ), secrets as (
      insert into destination_secret (id, org, destination_id, sealed)
      select ${secret?.id ?? null}, ${org}, id, ${secret?.sealed ?? null}
      from dest where ${secret?.id ?? null}::text is not null
    )
    select id from dest`.execute(db);
  return made.rows.length > 0;
}

export async function getDestination(
  db: Db,
  org: string,
  scope: DestinationScope,
  id: string,
): Promise<DestinationRow | undefined> {
  const row = await selectDestinations(db, org, scope).where('destination.id', '=', id).executeTakeFirst();
  return row as DestinationRow | undefined;
}

/** Newest first; a scope has at most `DESTINATIONS_MAX`. */
export async function listDestinations(
  db: Db,
  org: string,
  scope: DestinationScope,
): Promise<DestinationRow[]> {
  const rows = await selectDestinations(db, org, scope).orderBy('destination.id', 'desc').execute();
  return rows as DestinationRow[];
}

export type DestinationChange = {
  url?: string | undefined;
  origin?: string | undefined;
  level?: DestinationLevel | undefined;
  types?: string[] | null | undefined;
  include_raw?: boolean | undefined;
  enabled?: boolean | undefined;
  secret?: SecretChange | undefined;
};

export type SecretChange = {
  /** Null removes it: what is sent from now on is unsigned. */
  secret: NewSecret | null;
  /** The destination's `secrets` that the change is made of. */
  seen: number;
};

/**
 * Changes a destination. What it is still owed goes to its new URL, waits while it pauses, and is due when the pause ends, as if asked for
 * again. A new secret signs from now on, the one before it for a while beside it.
 * @returns false where its secrets were changed since they were seen: then nothing is done.
 */
export async function updateDestination(
  db: Db,
  org: string,
  scope: DestinationScope,
  id: string,
  change: DestinationChange,
): Promise<boolean> {
  const { url, origin, level, types, include_raw, enabled, secret: rotation } = change;
  const stream = scope.kind === 'session' ? scope.stream : null;
  const moves_owed = url !== undefined || enabled !== undefined;
  const secret = rotation?.secret;
  const changed = await sql<{ id: string }>`
    with st as (
      update stream set destinations = destinations + 1 where org = ${org} and id = ${stream}
    ), changed as (
      update destination set
        url = coalesce(${url ?? null}, url), origin = coalesce(${origin ?? null}, origin), level = coalesce(${level ?? null}, level),
        types = case when ${types !== undefined}::boolean then ${types ?? null}::text[] else types end,
        include_raw = coalesce(${include_raw ?? null}::boolean, include_raw),
        enabled = coalesce(${enabled ?? null}::boolean, enabled), updated_at = clock_timestamp(),
        secrets = secrets + case when ${rotation !== undefined}::boolean then 1 else 0 end
      where org = ${org} and id = ${id} and secrets = coalesce(${rotation?.seen ?? null}::bigint, secrets)
      returning id, origin, enabled
    ), ends as (
      insert into endpoint (org, origin) select ${org}, c.origin from changed c
      where ${origin !== undefined}::boolean and not exists (select from endpoint e where e.org = ${org} and e.origin = c.origin and ${sql.raw(USED_LATELY)})
      on conflict (org, origin) do update set used_at = clock_timestamp()
    ), open as (
      select d.stream, d.id from delivery d join changed c on c.id = d.destination_id
      where ${moves_owed}::boolean and d.status in ('pending', 'failed')
        and (d.origin <> c.origin or c.enabled <> (d.due_at is not null))
      order by d.stream, d.id for no key update of d
    ), owed as (
      update delivery d set origin = c.origin,
        due_at = case when c.enabled then coalesce(d.due_at, clock_timestamp()) end,
        asked_at = case when c.enabled and d.due_at is null then clock_timestamp() else d.asked_at end
      from open o, changed c where d.stream = o.stream and d.id = o.id and d.status in ('pending', 'failed')
    ), older as (
      delete from destination_secret s using changed c
      where ${rotation !== undefined}::boolean and s.destination_id = c.id
        and (s.expires_at is not null or ${secret === null}::boolean)
    ), retired as (
      update destination_secret s set expires_at = clock_timestamp() + ${SECRET_OVERLAP_S} * interval '1 s'
      from changed c where ${secret !== undefined && secret !== null}::boolean and s.destination_id = c.id and s.expires_at is null
    ), made as (
      insert into destination_secret (id, org, destination_id, sealed)
      select ${secret?.id ?? null}, ${org}, id, ${secret?.sealed ?? null}
      from changed where ${secret?.id ?? null}::text is not null
    )
    select id from changed`.execute(db);
  return changed.rows.length > 0;
}

/**
 * Deletes a destination with its secrets. What it was still owed is given up, now or when the attempt under way has failed; the records
 * of its deliveries stay.
 */
export async function deleteDestination(
  db: Db,
  org: string,
  scope: DestinationScope,
  id: string,
): Promise<void> {
  const stream = scope.kind === 'session' ? scope.stream : null;
  await sql`
    with st as (
      update stream set destinations = destinations + 1 where org = ${org} and id = ${stream}
    ), gone as (
      delete from destination where org = ${org} and id = ${id} returning id
    ), open as (
      select d.stream, d.id from delivery d join gone g on g.id = d.destination_id
      where d.status in ('pending', 'failed') order by d.stream, d.id for no key update of d
    )
    update delivery d set status = 'dead_letter', due_at = null, error = 'the destination was deleted',
      updated_at = clock_timestamp()
    from open o where d.stream = o.stream and d.id = o.id`.execute(db);
}

/** The sealed secrets that sign for a destination now: the newest, and the one before it for a while. */
export async function readSecrets(
  db: Db,
  org: string,
  destination_id: string,
): Promise<{ id: string; sealed: string }[]> {
  return await db
    .selectFrom('destination_secret')
    .select(['id', 'sealed'])
    .where('org', '=', org)
    .where('destination_id', '=', destination_id)
    .where((query) =>
      query.or([query('expires_at', 'is', null), query('expires_at', '>', sql<Date>`clock_timestamp()`)]),
    )
    .orderBy(sql`expires_at is null`, 'desc')
    .orderBy('id', 'desc')
    .limit(2)
    .execute();
}

/** One condition for each kind of scope, so that each finds its index. */
function isOf(scope: DestinationScope, org: string) {
  switch (scope.kind) {
    case 'session':
      return sql<boolean>`destination.org = ${org} and destination.stream = ${scope.stream}`;
    case 'agent':
      return sql<boolean>`destination.org = ${org} and destination.agent_id = ${scope.agent_id}`;
    case 'org':
      return sql<boolean>`destination.org = ${org} and destination.stream is null and destination.agent_id is null`;
    default:
      return scope satisfies never;
  }
}

function selectDestinations(db: Db, org: string, scope: DestinationScope) {
  return db
    .selectFrom('destination')
    .innerJoin('endpoint', (join) =>
      join.onRef('endpoint.org', '=', 'destination.org').onRef('endpoint.origin', '=', 'destination.origin'),
    )
    .selectAll('destination')
    .select(['endpoint.failures', 'endpoint.open_until'])
    .select(
      sql<boolean>`exists (select from destination_secret s
        where s.destination_id = destination.id and s.expires_at is null)`.as('has_secret'),
    )
    .where(isOf(scope, org));
}
