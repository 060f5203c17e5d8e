// Prisma's schema engine in WebAssembly, which comes with its npm package, and
// node-postgres: the engine of the Umami image is the same in machine code, and
// comes from its maker's own host.
import { PrismaPg } from '@prisma/adapter-pg';
import pg from 'pg';
import { defineConfig } from 'prisma/config';

const NAME = 19;
const TEXT = 25;

// The adapter of this version does not know PostgreSQL's type "name", which the
// engine asks for.
const addFields = pg.Result.prototype.addFields;

pg.Result.prototype.addFields = function (fields) {
  for (const field of fields) {
    if (field.dataTypeID === NAME) {
      field.dataTypeID = TEXT;
    }
  }

  return addFields.call(this, fields);
};

const connectionString = process.env.DATABASE_URL ?? '';
const schema = new URL(connectionString).searchParams.get('schema') ?? undefined;

export default defineConfig({
  schema: 'schema.prisma',
  experimental: { adapter: true },
  engine: 'js',
  adapter: async () => new PrismaPg({ connectionString }, { schema }),
});
