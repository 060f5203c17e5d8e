/// <reference path="./.sst/platform/config.d.ts" />

// The service of ../*.json for teams on SST: docs/ecs.md tells what it makes.

export default $config({
  app(input) {
    return {
      name: 'umami-gateway',
      home: 'aws',
      removal: 'retain',
      protect: input?.stage === 'production',
      providers: { aws: { version: '6.66.2' } },
    };
  },

  async run() {
    const { read } = await import('./bundle');
    const { service } = await import('./service');
    const root = $cli.paths.root;

    return service(read(`${root}/..`, `${root}/../${$app.stage}.env`));
  },
});
