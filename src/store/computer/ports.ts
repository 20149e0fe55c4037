/** Ports of computers that are reachable from outside under a URL of ours. */
import type { Db } from '../ground/tables.ts';

export type PublishedPortRow = {
  id: string;
  org: string;
  computer_id: string;
  port: number;
  created_at: Date;
  /** Whether a visit starts a computer that is asleep. */
  wakes: boolean;
  /** A bash script that brings back the server that listens there. */
  start_command: string | null;
};

type NewPort = Pick<PublishedPortRow, 'id' | 'org' | 'computer_id' | 'port'>;
/** What a visit may do; absent, it stays as it was. */
type Visits = Partial<Pick<PublishedPortRow, 'wakes' | 'start_command'>>;

/** Idempotent: a port that is published keeps its id. */
export async function publishPort(db: Db, row: NewPort, visits: Visits = {}): Promise<PublishedPortRow> {
  const same = ['computer_id', 'port'] as const;
  const changes = Object.keys(visits).length > 0;
  await db
    .insertInto('published_port')
    .values({ ...row, ...visits })
    .onConflict((conflict) =>
      changes ? conflict.columns(same).doUpdateSet(visits) : conflict.columns(same).doNothing(),
    )
    .execute();
  return await db
    .selectFrom('published_port')
    .selectAll()
    .where('computer_id', '=', row.computer_id)
    .where('port', '=', row.port)
    .executeTakeFirstOrThrow();
}

export async function listPorts(db: Db, org: string, computer_ids: string[]): Promise<PublishedPortRow[]> {
  if (computer_ids.length === 0) return [];
  return await db
    .selectFrom('published_port')
    .selectAll()
    .where('org', '=', org)
    .where('computer_id', 'in', computer_ids)
    .orderBy('port')
    .execute();
}

/** Whose port has this id; asked by visitors, who bear no key. */
export async function findPort(db: Db, which: PortName): Promise<Visited | undefined> {
  const query = db
    .selectFrom('published_port')
    .innerJoin('computer', 'computer.id', 'published_port.computer_id')
    .selectAll('published_port')
    .select('computer.preview_digest');
  if ('id' in which) return await query.where('published_port.id', '=', which.id).executeTakeFirst();
  if ('deployment_id' in which)
    return await query
      .innerJoin('release', (join) =>
        join
          .onRef('release.computer_id', '=', 'published_port.computer_id')
          .onRef('release.port', '=', 'published_port.port'),
      )
      .innerJoin('deployment', 'deployment.serving', 'release.id')
      .where('deployment.id', '=', which.deployment_id)
      .where('deployment.wanted', '=', 'running')
      .executeTakeFirst();
  return await query
    .where('published_port.computer_id', '=', which.computer_id)
    .where('published_port.port', '=', which.port)
    .executeTakeFirst();
}

/** As a host names it. */
export type PortName = { id: string } | { computer_id: string; port: number } | { deployment_id: string };
/** With the digest of the token that its visitors need. */
export type Visited = PublishedPortRow & { preview_digest: Uint8Array | null };

/** Whether it was published. */
export async function unpublishPort(
  db: Db,
  org: string,
  computer_id: string,
  port: number,
): Promise<boolean> {
  const { numDeletedRows } = await db
    .deleteFrom('published_port')
    .where('org', '=', org)
    .where('computer_id', '=', computer_id)
    .where('port', '=', port)
    .executeTakeFirstOrThrow();
  return numDeletedRows > 0n;
}
