// Records whose keys are names that users gave. A name may be that of a property which every object inherits:
// constructor, toString.

/** What a record itself has under a name; undefined: nothing. */
export const own = <T>(record: Readonly<Record<string, T>> | undefined, name: string): T | undefined =>
  record !== undefined && Object.hasOwn(record, name) ? record[name] : undefined;
