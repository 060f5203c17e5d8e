// In place of the package @umami/prisma-client: the members that Umami uses, on
// Prisma's client without an engine.
import { PrismaClient } from '@prisma/client';
import { PrismaPg } from '@prisma/adapter-pg';

function connect() {
  const [server, query] = (process.env.DATABASE_URL ?? '').split('?');
  const params = new URLSearchParams(query);
  const schema = params.get('schema');
  const max = Number(params.get('connection_limit')) || undefined;

  // Times are sent in UTC without saying so: the database must read them as such.
  const settings = [params.get('options'), '-c timezone=UTC'];

  if (schema) {
    settings.push(`-c search_path="${schema}"`);
  }

  params.set('options', settings.filter(Boolean).join(' '));

  const pool = { connectionString: `${server}?${params}`, max };

  return new PrismaClient({ adapter: new PrismaPg(pool, { schema: schema ?? undefined }) });
}

const shared = globalThis as unknown as { umamiClient?: PrismaClient };
const client = (shared.umamiClient ??= connect());

function log(...args: any[]): void {
  if (process.env.LOG_QUERY) {
    console.log(...args);
  }
}

function rawQuery(query: string, params: any[] = []): Promise<any> {
  return client.$queryRawUnsafe(query, ...params);
}

function transaction(input: any, options?: any): Promise<any> {
  return client.$transaction(input, options);
}

export default { client, log, rawQuery, transaction };
