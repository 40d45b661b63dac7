// Measures how much memory this process may still use. In: files of the system under `root`; out: bytes. A container's
// limit is that of its control group and of all groups around it. Inactive pages of the file cache do not count as
// used, because the system can reclaim them.
import { readFileSync } from 'node:fs';
import { freemem } from 'node:os';
import { dirname, join, posix } from 'node:path';

/** The groups of this process. They are found once, because memory is asked for often; their limits may change. */
let own: readonly Group[] | undefined;

/** Free bytes on the machine and in the container. */
export function freeMemory(root = '/'): number {
  const limit = process.constrainedMemory();
  // Node knows only the limit of the process's own group, not those of the groups around it.
  const known =
    limit > 0 && limit < Number.MAX_SAFE_INTEGER ? Math.max(0, limit - process.memoryUsage.rss()) : Infinity;
  if (root !== '/') return freeInAll(groupsOf(root));
  return Math.min(freemem(), known, freeInAll((own ??= groupsOf(root))));
}

interface Group {
  readonly folder: string;
  readonly version: 1 | 2;
}

/** The memory control groups of the process, from its own to the outermost, as folders. */
function groupsOf(root: string): Group[] {
  const own = new Map<1 | 2, string>(); // version -> path of the group
  for (const line of textOf(join(root, 'proc/self/cgroup')).split('\n')) {
    const [, id = '', controllers = '', path = ''] = /^(\d+):([^:]*):(\/.*)$/.exec(line) ?? [];
    if (id === '0' && controllers === '') own.set(2, path);
    else if (controllers.split(',').includes('memory')) own.set(1, path);
  }
  return textOf(join(root, 'proc/self/mountinfo'))
    .split('\n')
    .flatMap((line) => {
      const [, mountRoot = '', mountPoint = '', kind = '', options = ''] =
        /^\S+ \S+ \S+ (\S+) (\S+) .* - (cgroup2?) \S+ (\S+)$/.exec(line) ?? [];
      const version = kind === 'cgroup2' ? 2 : 1,
        path = own.get(version);
      if (kind === '' || path === undefined || (version === 1 && !options.split(',').includes('memory'))) return [];
      // In a container, the process's own group may be the root of the mount.
      const within = posix.relative(mountRoot, path),
        from = within.startsWith('..') ? '' : within,
        top = join(root, mountPoint),
        groups: Group[] = [];
      for (let folder = join(top, from); folder.startsWith(top); folder = dirname(folder))
        groups.push({ folder, version });
      return groups;
    });
}

const freeInAll = (groups: readonly Group[]): number => Math.min(Infinity, ...groups.map((group) => freeIn(group)));

/** Free bytes below a group's limit; Infinity if it has none. */
function freeIn({ folder, version }: Group): number {
  const number = (name: string): number => {
    const text = textOf(join(folder, name)).trim();
    return /^\d+$/.test(text) ? Number(text) : NaN;
  };
  const stat = (name: string): number =>
    Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(textOf(join(folder, 'memory.stat')))?.[1] ?? 0);
  const [limits, used, files] =
    version === 2
      ? [['memory.max', 'memory.high'], 'memory.current', 'inactive_file']
      : [['memory.limit_in_bytes'], 'memory.usage_in_bytes', 'total_inactive_file'];
  const limit = Math.min(...limits.map(number).map((n) => (Number.isNaN(n) ? Infinity : n)));
  if (limit > Number.MAX_SAFE_INTEGER) return Infinity; // in version 1, a number near 2^63 means no limit
  const taken = number(used);
  return Number.isNaN(taken) ? limit : Math.max(0, limit - Math.max(0, taken - stat(files)));
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
