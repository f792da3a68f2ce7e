export { CallError, TestClient } from "./client.ts";
