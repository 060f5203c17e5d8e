// The shop: what it has, the product page, and a basket that lasts as long as
// the tab.

(() => {
  'use strict';

  const pots = {
    mug: {
      name: 'Morning mug', price: 24, glaze: 'sand', note: 'Sand, 32 cl',
      story: 'Wide enough for a nose, heavy enough to stay where it was put. The handle takes '
        + 'three fingers, and the fourth has something to lean on.',
      facts: { Holds: '32 cl', Height: '9 cm', Glaze: 'Sand, unglazed foot' },
    },
    bowl: {
      name: 'Porridge bowl', price: 28, glaze: 'foam', note: 'Foam, 60 cl',
      story: 'Steep at the side so that the spoon finds its way, thick at the rim so that the '
        + 'porridge stays warm while you look for the honey.',
      facts: { Holds: '60 cl', Width: '16 cm', Glaze: 'Foam over grey clay' },
    },
    jug: {
      name: 'Milk jug', price: 46, glaze: 'deep', note: 'Deep water, 1 l',
      story: 'It pours without a last drop. We threw forty to find the lip, and kept the one '
        + 'that the cat could not empty.',
      facts: { Holds: '1 l', Height: '21 cm', Glaze: 'Deep water, two coats' },
    },
    vase: {
      name: 'One-stem vase', price: 32, glaze: 'kelp', note: 'Kelp, 18 cm',
      story: 'For the single stem that came home in a coat pocket. Narrow at the neck, so that '
        + 'even a tulip stands up straight.',
      facts: { Height: '18 cm', Neck: '2 cm', Glaze: 'Kelp, ash speckles' },
    },
  };

  const $ = (id) => document.getElementById(id);

  function make(tag, text, attributes = {}) {
    const element = document.createElement(tag);

    element.textContent = text;
    Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));

    return element;
  }

  function picture(id) {
    const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
    const use = document.createElementNS('http://www.w3.org/2000/svg', 'use');

    svg.setAttribute('class', `glaze-${pots[id].glaze}`);
    svg.setAttribute('viewBox', '0 0 200 220');
    svg.setAttribute('aria-hidden', 'true');
    use.setAttribute('href', `pots.svg#${id}`);
    svg.append(use);

    return svg;
  }

  function card(id) {
    const { name, note, price } = pots[id];
    const link = make('a', '', { class: 'card', href: `product.html?pot=${id}` });
    const item = make('li', '');

    link.append(picture(id), make('h3', name), make('p', note),
      make('p', `€ ${price}`, { class: 'price' }));
    item.append(link);

    return item;
  }

  function basket(more) {
    const count = Number(sessionStorage.getItem('basket')) + more;

    sessionStorage.setItem('basket', count);
    $('basket').textContent = count;
  }

  function productPage() {
    const asked = new URLSearchParams(location.search).get('pot');
    const id = Object.hasOwn(pots, asked) ? asked : 'mug';
    const pot = pots[id];

    document.title = `${pot.name} – Tidemark`;
    $('picture').setAttribute('class', `glaze-${pot.glaze}`);
    $('picture').setAttribute('aria-label', pot.name);
    $('picture').firstElementChild.setAttribute('href', `pots.svg#${id}`);
    $('name').textContent = pot.name;
    $('price').textContent = `€ ${pot.price}`;
    $('story').textContent = pot.story;

    Object.entries(pot.facts).forEach(([fact, value]) => {
      $('facts').append(make('dt', fact), make('dd', value));
    });

    [$('buy'), $('add')].forEach((button) => {
      button.setAttribute('data-umami-event-pot', id);
    });

    $('buy').addEventListener('click', () => {
      $('thanks').textContent = 'Thank you. It will never arrive, but the beacon has left.';
    });

    $('add').addEventListener('click', () => {
      basket(1);
      $('thanks').textContent = `One ${pot.name.toLowerCase()} is in the basket.`;
    });

    $('more').append(...Object.keys(pots).filter((other) => other !== id).map(card));
  }

  basket(0);

  if ($('buy')) {
    productPage();
  }
})();
