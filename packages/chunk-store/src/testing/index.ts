export { type BlobBackendForm, blobBackendSuite, type OpenedBackend } from "./blob-backend-suite.ts";
