// Writes the API reference, docs/api/*.md, from the exports of the package's entry points and their docstrings. `npm
// run docs` runs it; a test compares its output with the files.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const root = fileURLToPath(new URL('..', import.meta.url)),
  folder = join(root, 'docs/api');

interface Door {
  readonly page: string;
  readonly file: string;
  readonly from: string;
  readonly what: string;
  /** Another entry point, whose page has the names that both export. */
  readonly without?: string;
}

/** The entry points by the name of their page. A namespace that an entry point exports (`nn`) has its own page. */
const DOORS: readonly Door[] = [
  {
    page: 'core',
    file: 'src/index.ts',
    from: 'dynamoe',
    what:
      'Models, sessions, data in memory. `dynamoe/core` is ' +
      'the same without Node; `dynamoe/node`, which `dynamoe` is in Node, adds the native device and files.',
  },
  {
    page: 'node',
    file: 'src/node.ts',
    from: 'dynamoe',
    without: 'src/index.ts',
    what: 'What `dynamoe` has in Node besides [`dynamoe/core`](core.md).',
  },
  {
    page: 'recompile',
    file: 'src/recompile.ts',
    from: 'dynamoe/recompile',
    what:
      'Rules that recompile a run while ' +
      'it goes on, and the policies that are built in: [the guide](../guide/recompilation.md).',
  },
  {
    page: 'layers',
    file: 'src/layers.ts',
    from: 'dynamoe/layers',
    what: 'Further layers and functions, for any JavaScript engine. Programs that do not import them do not load them.',
  },
  { page: 'data', file: 'src/data.ts', from: 'dynamoe/data', what: 'Datasets in Node.' },
  {
    page: 'log',
    file: 'src/log.ts',
    from: 'dynamoe/log',
    what: 'Events of a run, and loggers that receive them: [the guide](../dashboard.md).',
  },
];
const NAMESPACES: Readonly<Record<string, string>> = {
  nn: 'Modules and layers: [the mixture-of-experts layer](../guide/moe.md).',
  ops: 'Operations on tensors, for a `forward` of your own.',
  optim: 'Optimisers and schedules of the learning rate.',
  loss: "What a model is trained to make small: the first argument is its output, the second the batch's `y`.",
  metrics: 'What a validation may measure beside the loss.',
};

/** The pages by name, as Markdown. */
export function pages(): Map<string, string> {
  const { options } = ts.parseJsonConfigFileContent(
    ts.readConfigFile(join(root, 'tsconfig.json'), (f) => ts.sys.readFile(f)).config,
    ts.sys,
    root,
  );
  const program = ts.createProgram(
      DOORS.map((d) => join(root, d.file)),
      options,
    ),
    writer = new Writer(program.getTypeChecker()),
    out = new Map<string, string>();
  const exportsOf = (file: string): ts.Symbol[] =>
    writer.checker.getExportsOfModule(writer.checker.getSymbolAtLocation(program.getSourceFile(join(root, file))!)!);
  for (const { page, file, from, what, without } of DOORS) {
    const elsewhere = new Set(without === undefined ? [] : exportsOf(without).map((s) => s.name));
    const spaces: string[] = [],
      entries: ts.Symbol[] = [];
    for (const symbol of exportsOf(file)) {
      if (elsewhere.has(symbol.name)) continue;
      const space = symbol.declarations?.some((d) => ts.isNamespaceExport(d));
      if (!space) {
        entries.push(symbol);
        continue;
      }
      spaces.push(`[\`${symbol.name}\`](${symbol.name}.md)`);
      const inside = writer.checker.getExportsOfModule(writer.resolved(symbol));
      out.set(
        symbol.name,
        page_(
          `\`${symbol.name}\``,
          `\`import { ${symbol.name} } from '${from}'\`. ${NAMESPACES[symbol.name] ?? ''}`,
          inside.map((s) => writer.entry(s, `${symbol.name}.`)),
        ),
      );
    }
    out.set(
      page,
      page_(
        `\`${from}\``,
        `${what}${spaces.length > 0 ? ` Namespaces: ${spaces.join(', ')}.` : ''}`,
        entries.map((s) => writer.entry(s, '')),
      ),
    );
  }
  return out;
}

interface Entry {
  readonly name: string;
  readonly text: string;
  readonly type: boolean;
}

/** Functions and classes first, then types, each sorted by name. */
function page_(title: string, what: string, entries: readonly Entry[]): string {
  const list = (type: boolean): string =>
    entries
      .filter((e) => e.type === type)
      .sort((a, b) => (a.name.toLowerCase() < b.name.toLowerCase() ? -1 : 1))
      .map((e) => e.text)
      .join('\n');
  const values = list(false),
    types = list(true);
  return (
    `<!-- Made from docstrings by tools/api.ts. -->\n# ` +
    `${title}\n\n${what.trim()}\n\n${values}${types === '' ? '' : `\n## Types\n\n${types}`}`
  )
    .trimEnd()
    .concat('\n');
}

class Writer {
  readonly checker: ts.TypeChecker;
  constructor(checker: ts.TypeChecker) {
    this.checker = checker;
  }

  resolved(symbol: ts.Symbol): ts.Symbol {
    return symbol.flags & ts.SymbolFlags.Alias ? this.checker.getAliasedSymbol(symbol) : symbol;
  }

  entry(exported: ts.Symbol, prefix: string): Entry {
    const symbol = this.resolved(exported),
      { name } = exported,
      doc = this.#doc(symbol),
      head = (what: string): string => `### \`${prefix}${name}\`${what}\n\n`;
    const [d] = symbol.declarations ?? [];
    const from = `[source](../../${relative(root, d.getSourceFile().fileName).replaceAll('\\', '/')})`,
      body = (...parts: string[]): string => [...parts.filter((p) => p !== ''), from].join('\n\n') + '\n';
    const callable = this.#callable(symbol);
    if (callable)
      return {
        name,
        type: false,
        text: head('') + body(callable.map((s) => code(this.#call(`${prefix}${name}`, s))).join('<br>'), doc),
      };
    const typeOnly =
      exported.declarations?.some((e) => ts.isExportSpecifier(e) && (e.isTypeOnly || e.parent.parent.isTypeOnly)) ??
      false;
    if (ts.isClassDeclaration(d) && typeOnly)
      return { name, type: true, text: head('') + body(doc, this.#members(symbol)) };
    if (ts.isClassDeclaration(d)) {
      const made = d.members.find((m) => ts.isConstructorDeclaration(m));
      const open = made && !made.modifiers?.some((m) => m.kind === ts.SyntaxKind.PrivateKeyword);
      const heritage = d.heritageClauses?.map((h) => h.getText()).join(' ') ?? '';
      const signature = open ? `new ${prefix}${name}(${this.#parameters(made.parameters)})` : `class ${name}`;
      return {
        name,
        type: false,
        text: head('') + body(code(heritage ? `${signature} ${heritage}` : signature), doc, this.#members(symbol)),
      };
    }
    if (ts.isInterfaceDeclaration(d))
      return {
        name,
        type: true,
        text:
          head(d.heritageClauses ? ` ${code(d.heritageClauses.map((h) => h.getText()).join(' '))}` : '') +
          body(doc, this.#members(symbol)),
      };
    if (ts.isTypeAliasDeclaration(d))
      return { name, type: true, text: head('') + body(code(flat(d.type.getText())), doc) };
    return {
      name,
      type: false,
      text: head('') + body(code(flat(this.checker.typeToString(this.checker.getTypeOfSymbol(symbol)))), doc),
    };
  }

  #doc(symbol: ts.Symbol): string {
    return ts.displayPartsToString(symbol.getDocumentationComment(this.checker)).trim();
  }

  /** The signatures of a function, or of a constant that contains one. */
  #callable(symbol: ts.Symbol): readonly ts.SignatureDeclaration[] | null {
    const found = (symbol.declarations ?? []).flatMap((d): ts.SignatureDeclaration[] => {
      if (ts.isFunctionDeclaration(d)) return [d];
      if (!ts.isVariableDeclaration(d) || !d.initializer) return [];
      // `unary({...})` and `withOp(op, (a: Tensor): Tensor => ...)` give an arrow function with a property.
      const made = d.initializer,
        own = ts.isCallExpression(made) ? this.checker.getTypeAtLocation(d).getCallSignatures()[0]?.declaration : made;
      return own && (ts.isArrowFunction(own) || ts.isFunctionExpression(own)) ? [own] : [];
    });
    // The last of several overloads is the implementation, which callers do not see.
    return found.length === 0 ? null : found.length === 1 ? found : found.slice(0, -1);
  }

  #call(name: string, d: ts.SignatureDeclaration): string {
    const result =
      d.type?.getText() ??
      this.checker.typeToString(this.checker.getReturnTypeOfSignature(this.checker.getSignatureFromDeclaration(d)!), d);
    const generics = d.typeParameters ? `<${d.typeParameters.map((p) => p.getText()).join(', ')}>` : '';
    return flat(`${name}${generics}(${this.#parameters(d.parameters)}): ${result}`);
  }

  #parameters(list: readonly ts.ParameterDeclaration[]): string {
    return list
      .map((p) => {
        const optional = p.questionToken !== undefined || p.initializer !== undefined,
          name = ts.isIdentifier(p.name) ? p.name.text : 'options',
          type = p.type?.getText() ?? this.checker.typeToString(this.checker.getTypeAtLocation(p), p);
        return `${p.dotDotDotToken ? '...' : ''}${name}${optional ? '?' : ''}: ${flat(type)}`;
      })
      .join(', ');
  }

  /** The public members of a class or interface, without inherited ones. */
  #members(symbol: ts.Symbol): string {
    const rows = (symbol.declarations ?? [])
      .flatMap((d) =>
        ts.isClassDeclaration(d) || ts.isInterfaceDeclaration(d)
          ? ([...d.members] as (ts.ClassElement | ts.TypeElement)[])
          : [],
      )
      .flatMap((m) => {
        if (!m.name || ts.isPrivateIdentifier(m.name) || ts.isSetAccessor(m)) return [];
        const modifiers = (ts.canHaveModifiers(m) ? ts.getModifiers(m) : undefined) ?? [];
        if (modifiers.some((x) => x.kind === ts.SyntaxKind.PrivateKeyword || x.kind === ts.SyntaxKind.ProtectedKeyword))
          return [];
        const own = this.checker.getSymbolAtLocation(m.name),
          doc = own ? this.#doc(own) : '',
          name = `${modifiers.some((x) => x.kind === ts.SyntaxKind.StaticKeyword) ? 'static ' : ''}${m.name.getText()}`;
        const optional = 'questionToken' in m && m.questionToken ? '?' : '';
        if (ts.isMethodDeclaration(m) || ts.isMethodSignature(m))
          return [`| ${cell(code(this.#call(name + optional, m)))} | ${cell(doc)} |`];
        const type =
          (ts.isPropertyDeclaration(m) || ts.isPropertySignature(m) || ts.isGetAccessor(m)) && m.type
            ? m.type.getText()
            : own
              ? this.checker.typeToString(this.checker.getTypeOfSymbol(own), m)
              : '';
        return [`| ${cell(code(`${name}${optional}: ${flat(type)}`))} | ${cell(doc)} |`];
      });
    return rows.length === 0 ? '' : ['| | |', '| --- | --- |', ...rows].join('\n');
  }
}

const flat = (text: string): string =>
  text
    .replaceAll(/\s*\/\/[^\n]*/g, '')
    .replaceAll(/\s*\/\*\*[^]*?\*\//g, '')
    .replaceAll(/\s+/g, ' ');
const code = (text: string): string => `\`${text}\``;
const cell = (text: string): string => text.replaceAll('|', '\\|').replaceAll(/\s*\n\s*/g, ' ');

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  mkdirSync(folder, { recursive: true });
  const made = pages();
  for (const name of readdirSync(folder)) if (!made.has(name.replace(/\.md$/, ''))) rmSync(join(folder, name));
  for (const [name, text] of made)
    if (!existsSync(join(folder, `${name}.md`)) || readFileSync(join(folder, `${name}.md`), 'utf8') !== text)
      writeFileSync(join(folder, `${name}.md`), text);
}
