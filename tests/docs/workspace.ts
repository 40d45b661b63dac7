// A folder like that of a reader of the documents: with the package installed, and some text to train on. In: blocks.
// Out: their output.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import ts from 'typescript';
import { root } from './blocks.ts';
import { writeText } from '../cli/command.ts';
import { node22 } from '../support/oldest-node.ts';

export interface Finished {
  readonly code: number | null;
  readonly output: string;
}

// Compiling native kernels takes seconds, and wasm gives the same bits: without a compiler, `auto` means wasm.
const env = { ...process.env, CC: 'no-such-compiler', NO_COLOR: '1' };

export class Workspace {
  readonly folder: string;
  private constructor(folder: string) {
    this.folder = folder;
  }

  static async make(): Promise<Workspace> {
    const folder = await mkdtemp(join(tmpdir(), 'dynamoe-docs-'));
    await mkdir(join(folder, 'node_modules'));
    await symlink(root, join(folder, 'node_modules/dynamoe'), 'junction');
    await symlink(join(root, 'node_modules/@types'), join(folder, 'node_modules/@types'), 'junction');
    await symlink(join(root, 'examples'), join(folder, 'examples'), 'junction');
    await writeFile(join(folder, 'package.json'), '{ "type": "module" }');
    await mkdir(join(folder, 'books'));
    await writeText(join(folder, 'books'));
    await copyFile(join(folder, 'books/text.txt'), join(folder, 'tinyshakespeare.txt'));
    return new Workspace(folder);
  }

  async write(name: string, text: string): Promise<void> {
    await writeFile(join(this.folder, name), text);
  }

  /** The type errors of files, checked as in a reader's project. */
  typeErrors(files: readonly string[]): string[] {
    const program = ts.createProgram(
      files.map((f) => join(this.folder, f)),
      {
        target: ts.ScriptTarget.ESNext,
        module: ts.ModuleKind.NodeNext,
        moduleResolution: ts.ModuleResolutionKind.NodeNext,
        customConditions: ['dynamoe-source'],
        lib: ['lib.esnext.d.ts', 'lib.dom.d.ts'],
        types: ['node'],
        typeRoots: [join(root, 'node_modules/@types')],
        strict: true,
        noEmit: true,
        allowImportingTsExtensions: true,
        erasableSyntaxOnly: true,
        verbatimModuleSyntax: true,
        skipLibCheck: true,
        moduleDetection: ts.ModuleDetectionKind.Force,
      },
    );
    return files.flatMap((f) => {
      const source = program.getSourceFile(join(this.folder, f));
      return [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)].map(
        (d) => `${f}: ${ts.flattenDiagnosticMessageText(d.messageText, ' ')}`,
      );
    });
  }

  /** Runs a program of the reader, on the oldest allowed Node if it is installed. */
  node(file: string): Promise<Finished> {
    return this.#run([join(this.folder, file)], undefined, node22() ?? process.execPath);
  }

  /** Runs the command `dynamoe`. enough: for a server; once the output matches, the server is stopped. */
  dynamoe(args: readonly string[], enough?: RegExp): Promise<Finished> {
    return this.#run([join(root, 'src/cli/main.ts'), ...args], enough);
  }

  async #run(args: readonly string[], enough?: RegExp, node = process.execPath): Promise<Finished> {
    const child = spawn(node, ['--no-warnings', '--conditions=dynamoe-source', ...args], {
      cwd: this.folder,
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = '';
    const add = (text: string): void => {
      output += text;
      if (enough?.test(output)) child.kill('SIGINT');
    };
    child.stdout.setEncoding('utf8').on('data', add);
    child.stderr.setEncoding('utf8').on('data', add);
    const [code] = (await once(child, 'close')) as [number | null];
    return { code, output };
  }

  remove(): Promise<void> {
    return rm(this.folder, { recursive: true, force: true });
  }
}
