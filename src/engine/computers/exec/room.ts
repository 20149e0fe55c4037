/**
 * How much a node keeps of what commands have said, in all and of one org. Invariant: an org makes room with what is its own, never with
 * what is another's.
 */

export type RoomBounds = { node_bytes_max: number; org_bytes_max: number };

export type Room = {
  /** Whether there was room for so many bytes; they have it then. */
  take: (org: string, bytes: number) => boolean;
  give: (org: string, bytes: number) => void;
};

/** @param clear gives back the room of something that the org may lose; false when it has nothing of the kind. */
export function createRoom(
  { node_bytes_max, org_bytes_max }: RoomBounds,
  clear: (org: string) => boolean,
): Room {
  const by_org = new Map<string, number>();
  let total = 0;
  const of = (org: string): number => by_org.get(org) ?? 0;

  function change(org: string, bytes: number): void {
    total += bytes;
    const left = of(org) + bytes;
    if (left === 0) by_org.delete(org);
    else by_org.set(org, left);
  }

  const fits = (org: string, bytes: number): boolean =>
    total + bytes <= node_bytes_max && of(org) + bytes <= org_bytes_max;

  function take(org: string, bytes: number): boolean {
    while (!fits(org, bytes)) if (!clear(org)) return false;
    change(org, bytes);
    return true;
  }

  return { take, give: (org, bytes) => change(org, -bytes) };
}

export type Share = {
  take: (bytes: number) => boolean;
  /** Gives back all that was taken. */
  giveAll: () => void;
};

/** @param free_bytes what needs no room: a share has so much whatever the others hold. */
export function shareOf(room: Room, org: string, free_bytes: number): Share {
  let free = free_bytes;
  let taken = 0;
  return {
    take: (bytes) => {
      if (bytes <= free) {
        free -= bytes;
        return true;
      }
      const is_taken = room.take(org, bytes);
      if (is_taken) taken += bytes;
      return is_taken;
    },
    giveAll: () => {
      room.give(org, taken);
      taken = 0;
    },
  };
}
