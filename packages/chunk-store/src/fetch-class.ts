/** Why a chunk is fetched, most urgent first: a reader waits; a reader will want it next; somebody may want it some day. */
export const fetchClasses = ["demand", "ahead", "prefetch"] as const;
export type FetchClass = (typeof fetchClasses)[number];
