// The strip that shows what became of each beacon.  The tracker sends them with
// fetch() and does not look at the answer, so the answer is looked at on its way.

(() => {
  'use strict';

  const gateway = document.body.dataset.gateway;
  const kept = JSON.parse(sessionStorage.getItem('beacons') ?? '[]');

  const panel = document.createElement('aside');

  panel.className = 'beacons';
  panel.setAttribute('aria-label', 'Beacons');
  panel.innerHTML = `
    <div class="inner">
      <h2>Beacons <small></small></h2>
      <ol aria-live="polite"></ol>
      <p class="tools">
        <button type="button" title="and see the limit at work">Send 50</button>
        <a target="_blank" rel="noopener">heartbeat</a>
      </p>
    </div>`;

  const list = panel.querySelector('ol');

  panel.querySelector('small').textContent = `to ${new URL(gateway).host}`;
  panel.querySelector('a').href = `${gateway}/api/heartbeat`;
  panel.querySelector('button').addEventListener('click', () => {
    for (let i = 0; i < 50; i++) {
      window.umami?.track('burst');
    }
  });

  document.body.append(panel);

  // Beacons of one kind and one fate share a line.
  function tell(what, status, note, ms) {
    const at = kept.findIndex((line) => line.what === what && line.status === status);
    const [line] = at < 0 ? [{ what, status, count: 0 }] : kept.splice(at, 1);

    kept.unshift({ ...line, note, ms, count: line.count + 1 });
    kept.splice(8);
    sessionStorage.setItem('beacons', JSON.stringify(kept));
    draw();
  }

  function draw() {
    list.replaceChildren(...kept.map(({ what, status, note, ms, count }) => {
      const line = document.createElement('li');
      const parts = { b: status || '–', span: what, i: count > 1 ? `× ${count}` : '', small: note };

      if (ms !== undefined) {
        parts.small += `, ${ms} ms`;
      }

      line.dataset.status = status;
      line.dataset.what = what;
      line.className = status === 200 ? 'good' : status === 429 ? 'slow' : 'bad';

      Object.entries(parts).forEach(([tag, text]) => {
        const part = document.createElement(tag);

        part.textContent = text;
        line.append(part);
      });

      return line;
    }));
  }

  function kind(body) {
    try {
      const { type, payload } = JSON.parse(body);

      return payload.name ?? (type === 'event' ? `page view ${payload.url}` : type);

    } catch {
      return 'beacon';
    }
  }

  // Umami answers with a token, and with an empty object to what it takes for a
  // robot; a refusal says why in JSON.
  async function fate(response) {
    const text = await response.text();
    let said;

    try {
      said = JSON.parse(text);

    } catch {
      said = text;
    }

    if (response.ok) {
      return said && Object.keys(said).length ? 'stored' : 'taken for a robot, not stored';
    }

    const { error, message, reason } = said ?? {};
    const why = error?.message ?? message ?? reason ?? error;

    return typeof why === 'string' ? why : (response.statusText || 'refused');
  }

  const send = window.fetch;

  window.fetch = async (resource, options) => {
    const url = resource instanceof Request ? resource.url : String(resource);

    if (!url.startsWith(`${gateway}/`)) {
      return send(resource, options);
    }

    const what = kind(options?.body);
    const began = performance.now();

    try {
      const response = await send(resource, options);
      const ms = Math.round(performance.now() - began);

      fate(response.clone()).then((note) => tell(what, response.status, note, ms));
      return response;

    } catch (error) {
      tell(what, 0, 'no answer that this page may read');
      throw error;
    }
  };

  // By now the tracker, a deferred script, has been run.
  document.addEventListener('DOMContentLoaded', () => {
    if (!window.umami) {
      tell('script.js', 0, 'could not be loaded');
    }
  });

  draw();
})();
