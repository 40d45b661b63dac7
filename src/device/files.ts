// How kernels are compiled: in files of a few, several files at the same time.
const PER_FILE = 8;

/** Compiles kernels in files. parallel: how many files at the same time. */
export async function inFiles<T>(
  kernels: readonly T[],
  parallel: number,
  compile: (file: readonly T[]) => Promise<void>,
): Promise<void> {
  const files: T[][] = [];
  for (let i = 0; i < kernels.length; i += PER_FILE) files.push(kernels.slice(i, i + PER_FILE));
  let next = 0;
  const worker = async (): Promise<void> => {
    for (let file = files[next++]; file; file = files[next++]) await compile(file);
  };
  await Promise.all(Array.from({ length: Math.min(files.length, parallel) }, worker));
}
