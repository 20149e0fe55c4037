/** The numbers that the rules of a session take from the configuration. */
export type Rules = {
  /** How long an idle session keeps its computer awake. */
  hibernate_after_ms: number;
  /** After an unserved cancel or deadline, how long until any node may end the turn over a live lease. */
  bound_ms: number;
  /** The most that one model response may hold, when no `tokens` limit asks for less. */
  response_tokens_max: number;
  /** How many failed requests in a row end the turn. */
  model_failures_max: number;
  /** How many runners a turn may cost before it is put aside. */
  interruptions_max: number;
  /** How many responses in a row may stop short and be continued. */
  continuations_max: number;
};
