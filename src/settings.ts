/** The configuration as each part takes it. */
import type { Config } from './config.ts';
import type { Settings } from './engine/runtime.ts';
import type { Limits } from './http/rate-limit.ts';
import { DEFAULT_IMAGE } from './resource/computer/spec.ts';
import type { Rules } from './session/rules.ts';

/** The numbers that the rules of sessions take. */
export function rulesOf(config: Config): Rules {
  return {
    hibernate_after_ms: config.OVERWINTER_HIBERNATE_AFTER_MS,
    bound_ms: 1500,
    response_tokens_max: config.OVERWINTER_RESPONSE_TOKENS,
    model_failures_max: 8,
    interruptions_max: 3,
    continuations_max: 3,
  };
}

/** What callers may cost. */
export function limitsOf(config: Config): Limits {
  return {
    requests_per_key_max: config.OVERWINTER_REQUESTS_PER_KEY,
    requests_per_org_max: config.OVERWINTER_REQUESTS_PER_ORG,
    failures_per_address_max: config.OVERWINTER_FAILURES_PER_ADDRESS,
    streams_per_key_max: config.OVERWINTER_STREAMS_PER_KEY,
    streams_per_org_max: config.OVERWINTER_STREAMS_PER_ORG,
    streams_max: config.OVERWINTER_STREAMS,
  };
}

/** What the engine takes. */
export function settingsOf(config: Config): Settings {
  const MIB = 1024 * 1024;
  return {
    lease_ttl_ms: config.OVERWINTER_LEASE_TTL_MS,
    poll_ms: config.OVERWINTER_POLL_MS,
    turns_at_once_max: config.OVERWINTER_TURNS_AT_ONCE,
    drain_ms: config.OVERWINTER_DRAIN_MS,
    command_timeout_ms: config.OVERWINTER_COMMAND_TIMEOUT_MS,
    output_bytes_max: config.OVERWINTER_OUTPUT_BYTES,
    webhooks: {
      attempts_max: config.OVERWINTER_WEBHOOK_ATTEMPTS,
      delays_ms: config.OVERWINTER_WEBHOOK_DELAYS,
      age_ms_max: config.OVERWINTER_WEBHOOK_HOURS * 3_600_000,
      at_once_max: config.OVERWINTER_WEBHOOKS_AT_ONCE,
      window_max: config.OVERWINTER_WEBHOOKS_PER_ENDPOINT,
      per_second_max: config.OVERWINTER_WEBHOOKS_PER_SECOND,
    },
    session_computer: {
      vcpus: config.OVERWINTER_COMPUTER_CPU_PERCENT / 100,
      ram_mb: config.OVERWINTER_COMPUTER_MEMORY_MB,
      disk_size_mb: config.OVERWINTER_COMPUTER_DISK_MB,
      processes_max: config.OVERWINTER_COMPUTER_PROCESSES,
      ...{ image: DEFAULT_IMAGE, base_image: null, template_id: 'scratch', template_version: '1' },
      network_policy: { mode: config.OVERWINTER_EGRESS },
    },
    computers: {
      exec_output_bytes_max: config.OVERWINTER_EXEC_OUTPUT_MB * MIB,
      processes_max: config.OVERWINTER_COMPUTER_PROCESSES,
      org_max: config.OVERWINTER_COMPUTERS_PER_ORG,
    },
    deployments: { bundle_bytes_max: config.OVERWINTER_BUNDLE_MB * MIB },
  };
}
