/** What the package exports: a server in a host's own process, and the types that its caller meets. */
export { ConfigError, readConfig, type Config } from './config.ts';
export { startServer, StartError, type Server } from './server.ts';
export type { Capabilities } from './resource/computer/driver.ts';
