// The package has no types of its own; this is the part that is used here.
declare module "aws4" {
  export function sign(
    request: {
      readonly service: "s3";
      readonly region: string;
      readonly method: string;
      readonly path: string;
      readonly headers: Record<string, string>;
      readonly extraHeadersToInclude?: Readonly<Record<string, boolean>>;
    },
    key: { readonly accessKeyId: string; readonly secretAccessKey: string },
  ): { readonly headers: Readonly<Record<string, string>> };
}
