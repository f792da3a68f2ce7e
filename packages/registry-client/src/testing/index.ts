export { type TestAuth, TestTokens } from "./auth.ts";
export { type Fault, type FaultMatch, Faults } from "./faults.ts";
export { type LoggedRequest, TestRegistry, type TestRegistryOptions } from "./registry.ts";
export { Store } from "./store.ts";
