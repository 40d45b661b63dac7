// Reads records whose keys are names that users gave. Such a name may be that of a property that every object inherits:
// constructor, toString.

/** The record's own entry of this name; undefined if it has none. */
export const own = <T>(record: Readonly<Record<string, T>> | undefined, name: string): T | undefined =>
  record !== undefined && Object.hasOwn(record, name) ? record[name] : undefined;
