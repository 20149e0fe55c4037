/**
 * The runtime's own programs on files that an agent made: `tar`, `du`.
 * Invariant: they run as the files' owner in a sandbox where nothing else exists, so a planted link leads nowhere and
 * no archive can write outside.
 */

import type { Program } from '../launcher.ts';
import { isBlock, startSandbox } from './launch.ts';
import type { Identity } from './launch.ts';
import type { Disk } from './mounts.ts';
import type { Bind, Fixtures } from './view.ts';

/** tar remembers hard links; an archive of nothing else must not take the host's memory. */
const DATA_BYTES = 1_073_741_824;
const FILE_BYTES = 2 ** 50;
const SCRATCH_BYTES = 1_048_576;
/** Files are read and changed whatever their mode. */
const CAPABILITIES = ['DAC_OVERRIDE', 'FOWNER'];
/** Where the files belong to many uids, those are kept, and so is what only their owner could set. */
const BLOCK_CAPABILITIES = [...CAPABILITIES, 'CHOWN', 'FSETID', 'SETFCAP'];

export type Tool = {
  identity: Identity;
  fixtures: Fixtures;
  /** Where the binds are, if they are on a disk of the computer's own. */
  disk: Disk | null;
  binds: Bind[];
  command: string[];
};

/** Starts it with `/computer`, below which the binds belong, as its directory, and pipes. */
export async function startTool({ identity, fixtures, disk, binds, command }: Tool): Promise<Program> {
  const block = isBlock(identity);
  return await startSandbox({
    identity,
    command,
    cgroup_files: [],
    mounts: { disk, overlay: null },
    limits: { file_bytes: FILE_BYTES, data_bytes: DATA_BYTES },
    view: {
      ...{ fixtures, binds, cwd: '/computer', root: null },
      // Patterns and names are bytes: in another locale a file's name may be no text.
      environment: { LC_ALL: 'C' },
      ...{ scratch_bytes: SCRATCH_BYTES, capabilities: block ? BLOCK_CAPABILITIES : CAPABILITIES },
    },
  });
}
