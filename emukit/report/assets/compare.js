"use strict";
// Two entries side by side. Their errors come as scripts, one an entry, loaded when it is chosen.
const emukit = (() => {
  const byId = (id) => document.getElementById(id);
  const loaded = new Map();
  let site = null;
  let maps = [];

  const element = (name, properties, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };
  const minus = (text) => text.replaceAll("-", "\u2212");
  const number = (x, digits) => minus(x.toFixed(digits));
  const signed = (x, digits) => (x > 0 ? "+" : "") + number(x, digits);

  // The inverse of what emukit/report/pages.py writes.
  const decode = (quantity) => {
    const bytes = atob(quantity.values);
    const out = new Float32Array(bytes.length);
    for (let i = 0; i < bytes.length; i += 1) {
      const q = (bytes.charCodeAt(i) << 24) >> 24;
      out[i] = (Math.sign(q) * quantity.largest * q * q) / (127 * 127);
    }
    return out;
  };

  const addErrors = (entry) => {
    for (const quantity of entry.quantities) quantity.field = decode(quantity);
    loaded.set(entry.id, entry);
  };

  const load = (id) =>
    new Promise((resolve, reject) => {
      if (loaded.has(id)) {
        resolve(loaded.get(id));
        return;
      }
      const script = element("script", { src: `data/${encodeURIComponent(id)}.js` });
      script.addEventListener("load", () => resolve(loaded.get(id)));
      script.addEventListener("error", () => reject(new Error(`data/${id}.js cannot be read`)));
      document.head.append(script);
    });

  const edges = (centres, low, high) => {
    const middle = centres.slice(1).map((x, i) => (x + centres[i]) / 2);
    const n = centres.length;
    const first = n > 1 ? 2 * centres[0] - middle[0] : low;
    const last = n > 1 ? 2 * centres[n - 1] - middle[n - 2] : high;
    return [first, ...middle, last];
  };

  const colour = (value, limit, colours) => {
    const level = Math.floor(((value / limit + 1) / 2) * colours.length);
    return colours[Math.max(0, Math.min(colours.length - 1, level))];
  };

  const WIDTH = 720;
  const HEIGHT = 360;

  // North is up, longitude runs from 0 to 360; what lies across the prime meridian is drawn on both sides.
  const draw = (canvas, map) => {
    const context = canvas.getContext("2d");
    const x = (lon) => (lon / 360) * WIDTH;
    const y = (lat) => ((90 - Math.max(-90, Math.min(90, lat))) / 180) * HEIGHT;
    const lon = edges(map.lon, 0, 360);
    const lat = edges(map.lat, -90, 90);
    context.fillStyle = "#ffffff";
    context.fillRect(0, 0, WIDTH, HEIGHT);
    for (let j = 0; j < map.lat.length; j += 1) {
      const top = Math.round(y(lat[j + 1]));
      const height = Math.round(y(lat[j])) - top;
      for (let i = 0; i < map.lon.length; i += 1) {
        context.fillStyle = colour(map.field[j * map.lon.length + i], map.limit, map.colours);
        for (const shift of [-360, 0, 360]) {
          const left = Math.round(x(lon[i] + shift));
          const width = Math.round(x(lon[i + 1] + shift)) - left;
          if (left < WIDTH && left + width > 0) context.fillRect(left, top, width, height);
        }
      }
    }
    if (map.earth) {
      context.strokeStyle = "#222222";
      context.lineWidth = 1;
      context.beginPath();
      for (const line of site.coast) {
        for (let k = 0; k < line.length; k += 2) {
          const method = k === 0 ? "moveTo" : "lineTo";
          context[method](x(line[k] / 10), y(line[k + 1] / 10));
        }
      }
      context.stroke();
    }
    if (map.cursor) {
      const [i, j] = map.cursor;
      context.strokeStyle = "#000000";
      context.lineWidth = 2;
      const top = y(lat[j + 1]);
      context.strokeRect(x(lon[i]), top, x(lon[i + 1]) - x(lon[i]), y(lat[j]) - top);
    }
  };

  // What a key asked for is read out; what a pointer passes over is not.
  const read = (cell, aloud) => {
    const [i, j] = cell;
    byId("reading").setAttribute("aria-live", aloud ? "polite" : "off");
    const first = maps[0].map;
    const east = first.lon[i];
    const north = first.lat[j];
    const place = `${Math.abs(north).toFixed(1)}°${north < 0 ? "S" : "N"} ${east.toFixed(1)}°E`;
    const values = maps.map(({ map }) => `${map.short} ${signed(map.field[j * map.lon.length + i], 3)}`);
    byId("reading").textContent = `${place}: ${values.join("; ")}`;
  };

  const nearest = (centres, value, circle) => {
    const distance = (c) => {
      const d = Math.abs(c - value);
      return circle ? Math.min(d, 360 - d) : d;
    };
    return centres.reduce((best, c, i) => (distance(c) < distance(centres[best]) ? i : best), 0);
  };

  const panel = (map) => {
    const canvas = element("canvas", { width: WIDTH, height: HEIGHT, tabIndex: 0 });
    // Of a picture alone a screen reader would keep the arrow keys.
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-roledescription", "map");
    canvas.setAttribute("aria-label", `${map.title}. ${map.words}`);
    const entry = { canvas, map };
    draw(canvas, map);
    // Values of all maps are read together only where all have the same cells.
    const alike = () => maps.every(({ map: m }) => String([m.lat, m.lon]) === String([map.lat, map.lon]));
    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect();
      const lon = ((event.clientX - box.left) / box.width) * 360;
      const lat = 90 - ((event.clientY - box.top) / box.height) * 180;
      if (alike()) read([nearest(map.lon, lon, true), nearest(map.lat, lat, false)], false);
    });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (!step || !alike()) return;
      event.preventDefault();
      const [i, j] = map.cursor || [Math.floor(map.lon.length / 2), Math.floor(map.lat.length / 2)];
      const columns = map.lon.length;
      map.cursor = [(i + step[0] + columns) % columns, Math.max(0, Math.min(map.lat.length - 1, j + step[1]))];
      draw(canvas, map);
      read(map.cursor, true);
    });
    canvas.addEventListener("blur", () => {
      map.cursor = null;
      draw(canvas, map);
    });
    maps.push(entry);
    return element("figure", {}, element("figcaption", { textContent: map.title }), canvas);
  };

  const bar = (limit, colours, label) => {
    const canvas = element("canvas", { width: 480, height: 44, className: "colours" });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Scale of ${label}: from ${number(-limit, 3)} to ${number(limit, 3)}`);
    const context = canvas.getContext("2d");
    context.fillStyle = "#ffffff";
    context.fillRect(0, 0, 480, 44);
    const width = 440 / colours.length;
    colours.forEach((c, i) => {
      context.fillStyle = c;
      context.fillRect(20 + i * width, 4, Math.ceil(width), 16);
    });
    context.fillStyle = "#000000";
    context.font = "13px sans-serif";
    context.textAlign = "center";
    [-1, -0.5, 0, 0.5, 1].forEach((t) => {
      context.fillText(minus(String(+(t * limit).toPrecision(3))), 240 + t * 220, 38);
    });
    return canvas;
  };

  const mean = (map) => {
    let sum = 0;
    let area = 0;
    map.lat.forEach((lat, j) => {
      const weight = Math.cos((lat * Math.PI) / 180);
      map.lon.forEach((_, i) => {
        sum += weight * Math.abs(map.field[j * map.lon.length + i]);
        area += weight;
      });
    });
    return sum / area;
  };

  const table = (a, b) => {
    const known = (e) => new Set(e.columns.map((c) => c.key));
    // Those of A, then what only B is scored by.
    const columns = [...a.columns, ...b.columns.filter((c) => !known(a).has(c.key))];
    const head = byId("numbers").tHead.rows[0];
    const heads = columns.map((c) => {
      const cell = element("th", { scope: "col", className: "number", title: c.title, textContent: c.heading });
      if (c.unit) cell.append(element("br"), element("small", { textContent: c.unit }));
      return cell;
    });
    head.replaceChildren(head.cells[0], ...heads);
    const line = (title, values, form) => {
      const row = element("tr", {}, element("th", { scope: "row", textContent: title }));
      columns.forEach((c) => {
        const text = Number.isFinite(values[c.key]) ? form(values[c.key], c.digits) : "";
        row.append(element("td", { className: "number", textContent: text }));
      });
      return row;
    };
    const rows = [line(`A: ${a.name}`, a.scores, number), line(`B: ${b.name}`, b.scores, number)];
    const alike = a.key === b.key && a.competition === b.competition;
    if (alike) {
      const both = Object.fromEntries(columns.map((c) => [c.key, b.scores[c.key] - a.scores[c.key]]));
      rows.push(line("B less A", both, signed));
    }
    const side = a.higherIsBetter ? "above" : "below";
    byId("direction").textContent = alike ? `(the score is ${side} zero where B is better)` : "(not drawn: other months, or another competition)";
    byId("numbers").tBodies[0].replaceChildren(...rows);
  };

  const compare = async () => {
    const chosen = [byId("a").value, byId("b").value];
    const [a, b] = chosen.map((id) => site.entries.find((e) => e.id === id));
    history.replaceState(null, "", `#a=${encodeURIComponent(a.id)}&b=${encodeURIComponent(b.id)}`);
    table(a, b);
    let both;
    try {
      both = await Promise.all(chosen.map(load));
    } catch (error) {
      byId("status").textContent = String(error.message);
      byId("maps").replaceChildren();
      return;
    }
    // Another choice was made while these came.
    if (chosen[0] !== byId("a").value || chosen[1] !== byId("b").value) return;
    maps = [];
    const [first, second] = both;
    const same = first.key === second.key && first.lat.length === second.lat.length && first.lon.length === second.lon.length;
    const sections = first.quantities.map((quantity) => {
      const other = second.quantities.find((q) => q.name === quantity.name);
      const colours = site.colours[quantity.name.split(".")[0]];
      const limit = site.scales[quantity.name];
      const make = (entry, letter, q, name) =>
        panel({
          lat: entry.lat, lon: entry.lon, earth: entry.earth, field: q.field, limit, colours,
          title: `${letter}: ${name}`, short: letter, words: `${q.label}: ${q.numbers}`,
        });
      const panels = element("div", { className: "compared" }, make(first, "A", quantity, a.name));
      if (other) panels.append(make(second, "B", other, b.name));
      if (same && other) {
        const map = {
          lat: first.lat, lon: first.lon, earth: first.earth, limit, colours, short: "B less A", title: "B less A",
          field: quantity.field.map((v, i) => other.field[i] - v),
        };
        map.words = `${quantity.label}: area mean of the absolute difference ${number(mean(map), 3)}`;
        panels.append(panel(map));
      }
      const numbers = `A: ${quantity.numbers}` + (other ? `. B: ${other.numbers}` : "");
      return element(
        "section", {},
        element("h2", { textContent: quantity.label }),
        element("p", { textContent: minus(numbers) }),
        panels,
        bar(limit, colours, quantity.label),
      );
    });
    byId("maps").replaceChildren(...sections);
    byId("status").textContent = same
      ? `Both on ${a.months}.`
      : `A on ${a.months}, B on ${b.months}: other months, or other data, so no difference is drawn.`;
  };

  const start = (plain) => {
    site = plain;
    for (const id of ["a", "b"]) {
      byId(id).append(...site.entries.map((e) => element("option", { value: e.id, textContent: `${e.name} (${e.months})` })));
      byId(id).addEventListener("change", compare);
      byId(id).form.addEventListener("submit", (event) => event.preventDefault());
    }
    const wanted = new URLSearchParams(location.hash.slice(1));
    const known = (id) => site.entries.some((e) => e.id === id);
    byId("a").value = known(wanted.get("a")) ? wanted.get("a") : site.entries[0].id;
    const one = site.entries.find((e) => e.id === byId("a").value);
    const beside = site.entries.filter((e) => e !== one);
    const next = beside.find((e) => e.key === one.key) || beside[0];
    byId("b").value = known(wanted.get("b")) ? wanted.get("b") : next.id;
    byId("swap").addEventListener("click", () => {
      [byId("a").value, byId("b").value] = [byId("b").value, byId("a").value];
      compare();
    });
    compare();
  };

  return { start, addErrors };
})();
