/** Two projects: the suite, and what is asked of the whole of it once it is over. */
import { defineConfig } from 'vitest/config';

const shared = {
  testTimeout: 60_000,
  hookTimeout: 120_000,
  pool: 'forks',
  maxWorkers: 2,
} as const;

export default defineConfig({
  test: {
    ...shared,
    globalSetup: ['test/helpers/global-setup.ts', 'test/helpers/postgres-setup.ts'],
    projects: [
      {
        test: {
          ...{ ...shared, name: 'suite', include: ['test/**/*.test.ts'], exclude: ['test/after/**'] },
          setupFiles: ['test/helpers/mark.ts'],
          sequence: { groupOrder: 0 },
        },
      },
      {
        test: {
          ...{ ...shared, name: 'after', include: ['test/after/**/*.test.ts'] },
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
