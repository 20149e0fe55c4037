/** What an API key may do. Invariant: the scopes are a ladder, written here and nowhere else. */

/** Each includes the ones before it. */
export const KEY_SCOPES = ['read', 'write', 'admin'] as const;

export type KeyScope = (typeof KEY_SCOPES)[number];
