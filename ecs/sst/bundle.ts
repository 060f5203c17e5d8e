// The bundle's files with their parameters put in, as "gatewayctl render" does.

import { existsSync, readFileSync, readdirSync } from 'node:fs';

const TEMPLATE = /\{\{\s*(must_env|env)\s+`([^`]*)`(?:\s+`([^`]*)`)?\s*\}\}/;

export type Value = string | $util.Output<string>;
export type Parameters = Record<string, Value | undefined>;

export interface Bundle {
  parameters: Parameters;
  file(name: string): any;
  list(prefix: string): string[];
}

export function read(folder: string, env: string): Bundle {
  const parameters: Parameters = {};

  for (const line of readFileSync(env, 'utf8').split('\n')) {
    const match = line.trim().match(/^([A-Z][A-Z0-9_]*)=(.*)$/);
    if (match) {
      parameters[match[1]] = match[2];
    }
  }

  Object.assign(parameters, process.env);

  const folders = String(parameters.VARIANTS ?? '').split(' ').filter(Boolean)
    .map((variant) => `${folder}/variants/${variant}`).concat(folder);

  return {
    parameters,

    // a variant's file goes before the one of the same name

    file(name) {
      const path = folders.map((place) => `${place}/${name}`)
        .find((candidate) => existsSync(candidate)) ?? `${folder}/${name}`;

      return render(JSON.parse(readFileSync(path, 'utf8')), parameters, name);
    },

    list(prefix) {
      const names = folders.flatMap((place) => readdirSync(place));
      return [...new Set(names)].filter((name) => name.startsWith(prefix)).sort();
    },
  };
}

export function render(value: any, parameters: Parameters, where: string): any {
  if (typeof value === 'string') {
    return text(value, parameters, where);
  }

  if (Array.isArray(value)) {
    return value.map((item, i) => render(item, parameters, `${where}[${i}]`));
  }

  if (value !== null && typeof value === 'object') {
    return Object.fromEntries(Object.entries(value).map(
      ([key, item]) => [key, render(item, parameters, `${where}.${key}`)]));
  }

  return value;
}

// A parameter may be what another resource will only tell once it is made.

function text(value: string, parameters: Parameters, where: string): Value {
  const pieces: Value[] = [];
  let rest = value;
  let match;

  while ((match = rest.match(TEMPLATE))) {
    const [all, kind, name, standard] = match;
    const given = parameters[name] || (kind === 'env' ? standard : undefined);

    if (given === undefined) {
      throw new Error(`${where}: ${name} is not set`);
    }

    pieces.push(rest.slice(0, match.index), given);
    rest = rest.slice(match.index! + all.length);
  }

  pieces.push(rest);

  return pieces.every((piece) => typeof piece === 'string')
    ? pieces.join('') : $util.concat(...pieces);
}
