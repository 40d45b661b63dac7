export interface CacheFolder {
  readonly path: string;
  readonly named: boolean;
  readonly shared: boolean;
}
export function cacheFolders(): CacheFolder[];
export function refusal(folder: CacheFolder): string | null;
