// What stands in the panels of a page: asked for those that are seen, drawn as the answer says. Whatever is shown is set as text.
"use strict";

(() => {
  const page = document.querySelector("[data-dashboard]");
  if (!page) return;

  const places = new Map([...page.querySelectorAll("[data-panel]")].map((place) => [Number(place.dataset.panel), place]));
  const seen = new Set();
  const plots = new Map();
  let marks = [];

  function make(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // Three digits that say something, none that is a zero at the end: as the server writes numbers.
  function digits(number) {
    const large = Math.abs(number);
    const after = large === 0 ? 0 : Math.min(12, Math.max(0, 2 - Math.floor(Math.log10(large))));
    const text = number.toFixed(after);
    return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
  }

  function clock(seconds, long) {
    const text = new Date(seconds * 1000).toISOString();
    return long ? text.slice(5, 16).replace("T", " ") : text.slice(11, 19).replace(/:00$/, "");
  }

  // A canvas takes no variable and no light-dark(): as the style sheet means it now.
  const probe = make("span");
  probe.hidden = true;
  page.append(probe);

  function colour(name, part = 1) {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color.replace("rgb(", "rgba(").replace(")", `, ${part})`);
  }

  // One upon the other, with gaps where nothing is.
  function stacked(all) {
    const sum = all[0].map(() => 0);
    return all.map((values) => values.map((value, at) => {
      if (value !== null) sum[at] += value;
      return value === null ? null : sum[at];
    }));
  }

  function range(panel) {
    const { divisor } = panel.scale;
    return (_, least, most) => {
      let from = panel.min === null ? least ?? 0 : panel.min / divisor;
      let to = panel.max === null ? most ?? 1 : panel.max / divisor;
      for (const [limit] of panel.limits) if (panel.max === null && limit / divisor < 2 * to) to = Math.max(to, limit / divisor);
      if (!(to > from)) to = from + 1;
      const room = (to - from) / 20;
      if (panel.min === null && from !== 0) from -= room;
      return [from, panel.max === null ? to + room : to];
    };
  }

  // Lines that are not series: limits, and when something was marked.
  function lines(panel) {
    return (plot) => {
      const { ctx, bbox } = plot;
      const { left, top, width, height } = bbox;
      const stroke = (name, draw) => {
        ctx.save();
        ctx.beginPath();
        ctx.rect(left, top, width, height);
        ctx.clip();
        ctx.strokeStyle = colour(name);
        ctx.lineWidth = devicePixelRatio;
        ctx.setLineDash([6, 4]);
        ctx.beginPath();
        draw();
        ctx.stroke();
        ctx.restore();
      };
      for (const [limit, name] of panel.limits) {
        const y = plot.valToPos(limit / panel.scale.divisor, "y", true);
        stroke(name, () => { ctx.moveTo(left, y); ctx.lineTo(left + width, y); });
      }
      for (const mark of marks) {
        const x = plot.valToPos(mark.start, "x", true);
        stroke("red", () => { ctx.moveTo(x, top); ctx.lineTo(x, top + height); });
      }
    };
  }

  // What stands under the pointer, or where the arrow keys are: the largest first.
  function told(panel, tip) {
    return (plot) => {
      const at = plot.cursor.idx;
      tip.replaceChildren();
      tip.hidden = at === null || at === undefined || plot.cursor.left < 0;
      if (tip.hidden) return;
      tip.append(make("time", "", `${clock(panel.times[at])} UTC`));
      const known = panel.series.map((one) => ({ one, value: one.values[at] })).filter((of) => of.value !== null);
      known.sort((a, b) => b.value - a.value);
      const list = make("ul");
      for (const { one, value } of known.slice(0, 20)) {
        const row = make("li");
        row.append(make("span", `swatch ${one.colour}`), `${one.name}: ${digits(value / panel.scale.divisor)}${panel.scale.behind}`);
        list.append(row);
      }
      const now = panel.times[at];
      for (const mark of marks) {
        if (mark.start <= now && now <= mark.end) list.append(make("li", "marked", `${mark.title} ${mark.text}`));
      }
      tip.append(list);
      tip.classList.toggle("left", plot.cursor.left > plot.over.clientWidth / 2);
    };
  }

  function plotOf(panel, host, tip) {
    const quiet = colour("quiet");
    const line = colour("line");
    const long = panel.times.at(-1) - panel.times[0] > 86400;
    const order = panel.series.map((_, index) => index);
    // Bars hide what is behind them: the tallest first.
    if (panel.stacked && panel.bars) order.reverse();
    const series = order.map((index) => {
      const name = panel.series[index].colour;
      return {
        stroke: colour(name),
        width: 1.5,
        dash: panel.series[index].dashed ? [10, 10] : undefined,
        fill: panel.fill > 0 ? colour(name, panel.bars ? 1 : panel.fill / 100) : undefined,
        points: { show: false },
        paths: panel.bars ? uPlot.paths.bars({ size: [0.9, 24] }) : panel.steps ? uPlot.paths.stepped({ align: 1 }) : undefined,
      };
    });
    const axis = { stroke: quiet, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: "12px system-ui, sans-serif" };
    const written = (values) => values.map((value) => digits(value) + panel.scale.behind);
    const plot = new uPlot({
      width: host.clientWidth,
      height: host.clientHeight,
      legend: { show: false },
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      cursor: { sync: { key: "streamlab" }, drag: { x: false, y: false }, y: false },
      scales: { y: { range: range(panel) } },
      bands: panel.stacked && !panel.bars ? order.slice(1).map((index) => ({ series: [index + 1, index] })) : undefined,
      axes: [
        { ...axis, values: (_, splits) => splits.map((at) => clock(at, long)) },
        {
          ...axis,
          values: (_, splits) => written(splits),
          size: (_, values) => Math.max(36, ...(values ?? []).map((value) => value.length * 7 + 22)),
        },
      ],
      series: [{}, ...series],
      hooks: { setCursor: [told(panel, tip)], draw: [lines(panel)] },
    }, dataOf(panel, order), host);
    return { plot, order };
  }

  function dataOf(panel, order) {
    let values = panel.series.map((one) => one.values.map((value) => (value === null ? null : value / panel.scale.divisor)));
    if (panel.stacked && values.length > 0) values = stacked(values);
    return [panel.times, ...order.map((index) => values[index])];
  }

  function legend(panel, table) {
    const rows = [...panel.series].sort((a, b) => b.sorts - a.sorts);
    table.replaceChildren(...rows.map((one) => {
      const row = make("tr");
      const name = make("th");
      name.scope = "row";
      name.append(make("span", `swatch ${one.colour}${one.dashed ? " dashed" : ""}`), one.name);
      row.append(name, make("td", "number", one.last), make("td", "number", one.max));
      return row;
    }));
  }

  function drawLines(panel, place) {
    let known = plots.get(panel.id);
    // Other series, or numbers of another size: made anew. Otherwise only the data change.
    const form = JSON.stringify([panel.series.map((one) => one.name), panel.scale, matchMedia("(prefers-color-scheme: dark)").matches]);
    if (known && known.form === form && place.contains(known.host)) {
      Object.assign(known.panel, panel);
      known.plot.setData(dataOf(panel, known.order));
      legend(panel, known.rows);
      return;
    }
    known?.plot.destroy();
    const host = make("div", "plot");
    host.tabIndex = 0;
    host.role = "group";
    host.ariaLabel = "Chart; the arrow keys go through the moments; the table has the numbers";
    const tip = make("div", "tip");
    tip.ariaLive = "polite";
    tip.hidden = true;
    const table = make("table");
    const head = make("tr");
    for (const [name, className] of [["Name", ""], [panel.last, "number"], ["Most", "number"]]) {
      const cell = make("th", className, name);
      cell.scope = "col";
      head.append(cell);
    }
    const [top, rows] = [make("thead"), make("tbody")];
    top.append(head);
    table.append(top, rows);
    const legendOf = scrolled(place, "Legend", "legend");
    legendOf.append(table);
    place.replaceChildren(host, legendOf);
    const { plot, order } = plotOf(panel, host, tip);
    host.append(tip);
    legend(panel, rows);
    host.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
      if (steps === undefined) return;
      event.preventDefault();
      const of = plots.get(panel.id).panel;
      const last = of.times.length - 1;
      const at = Math.min(last, Math.max(0, (plot.cursor.idx ?? last) + steps));
      plot.setCursor({ left: plot.valToPos(of.times[at], "x"), top: 0 });
    });
    new ResizeObserver(() => {
      if (host.clientWidth > 0) plot.setSize({ width: host.clientWidth, height: host.clientHeight });
    }).observe(host);
    plots.set(panel.id, { plot, order, form, host, rows, panel });
  }

  // A part that is scrolled by itself, which the keyboard reaches; its name is that of its panel and its own.
  function scrolled(place, label, className) {
    const region = make("div", className ? `scroll ${className}` : "scroll");
    const panel = place.closest("section");
    region.tabIndex = 0;
    region.role = "region";
    region.ariaLabel = `${panel?.querySelector("h3")?.textContent ?? panel?.ariaLabel ?? ""}: ${label}`;
    return region;
  }

  function spark(values) {
    const known = values.filter((value) => value !== null);
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    if (known.length < 2) return svg;
    const [least, most] = [Math.min(...known), Math.max(...known)];
    const points = values.flatMap((value, at) => {
      return value === null ? [] : [`${at},${most > least ? 20 - (20 * (value - least)) / (most - least) : 10}`];
    });
    svg.setAttribute("viewBox", `0 -1 ${values.length - 1} 22`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    line.setAttribute("points", points.join(" "));
    svg.append(line);
    return svg;
  }

  function drawStat(panel, place) {
    const tiles = make("dl", "tiles");
    for (const tile of panel.tiles) {
      const made = make("div", `tile ${tile.colour}`);
      if (tile.name) made.append(make("dt", "", tile.name));
      const value = make("dd", "", tile.text);
      value.title = tile.exact;
      made.append(value);
      if (tile.spark.length > 0) made.append(spark(tile.spark));
      tiles.append(made);
    }
    place.replaceChildren(tiles);
  }

  function drawStates(panel, place, window) {
    const list = scrolled(place, "States over time", "states");
    const whole = window.end + window.step - window.start;
    for (const row of panel.rows) {
      const bar = make("div", "bar");
      for (const stretch of row.stretches) {
        const made = make("span", `stretch ${stretch.colour}`, panel.named ? stretch.text : "");
        made.title = `${stretch.text}, ${clock(stretch.start)} to ${clock(stretch.end)} UTC`;
        made.style.left = `${(100 * (stretch.start - window.start)) / whole}%`;
        made.style.width = `${(100 * (stretch.end - stretch.start)) / whole}%`;
        bar.append(made);
      }
      const last = row.stretches.at(-1);
      const name = make("p", "", `${row.name}: `);
      name.append(make("strong", "", last ? last.text : "not known"));
      list.append(name, bar);
    }
    place.replaceChildren(list);
  }

  function drawTable(panel, place) {
    const table = make("table");
    const [top, rows, head] = [make("thead"), make("tbody"), make("tr")];
    for (const column of panel.columns) {
      const cell = make("th", column.number ? "number" : "", column.name);
      cell.scope = "col";
      head.append(cell);
    }
    top.append(head);
    for (const cells of panel.rows) {
      const row = make("tr");
      row.append(...cells.map((text, at) => make("td", panel.columns[at].number ? "number" : "", text)));
      rows.append(row);
    }
    table.append(top, rows);
    const region = scrolled(place, "Table");
    region.append(table);
    place.replaceChildren(region);
  }

  function drawDocuments(panel, place) {
    const list = scrolled(place, "Log records", "documents");
    if (panel.found) list.append(make("p", "quiet", `${panel.found} found; the newest ${panel.lines.length}:`));
    for (const line of panel.lines) {
      const row = make("p");
      const at = make("time", "", line.at);
      if (line.address) {
        const link = make("a");
        link.href = line.address;
        link.append(at);
        row.append(link);
      } else row.append(at);
      row.append(" ", make("strong", `level ${line.level}`, line.level), " ", line.from, " ", make("code", "", line.message));
      list.append(row);
    }
    place.replaceChildren(list);
  }

  // Values that narrow the query of the page when they are followed.
  function drawValues(panel, place) {
    const lists = panel.fields.map(({ field, counted }) => {
      const list = make("ul");
      for (const [value, count] of counted) {
        const query = new URLSearchParams(location.search);
        const asked = query.get("q")?.trim();
        const part = `${field}:"${value.replace(/["\\]/g, "\\$&")}"`;
        query.set("q", asked ? `(${asked}) AND ${part}` : part);
        const link = make("a", "", value);
        link.href = `?${query}`;
        const row = make("li");
        row.append(link, " ", make("span", "quiet", count));
        list.append(row);
      }
      const of = make("div");
      of.append(make("h3", "", field), list);
      return of;
    });
    place.replaceChildren(...lists);
  }

  function leftOut(panel, place) {
    let said = place.parentElement.querySelector(".left-out");
    if (!panel.leftOut) {
      said?.remove();
      return;
    }
    if (!said) {
      said = make("p", "quiet left-out");
      place.after(said);
    }
    said.textContent = `${panel.leftOut} more are not drawn.`;
  }

  function draw(panel, window) {
    const place = places.get(panel.id);
    if (!place) return;
    if (panel.kind !== "lines") {
      plots.get(panel.id)?.plot.destroy();
      plots.delete(panel.id);
    }
    // What somebody has under the pointer or scrolled to stays where it is.
    const scrolledTo = place.querySelector(".scroll")?.scrollTop ?? 0;
    const at = document.activeElement;
    const inside = panel.kind !== "lines" && place.dataset.kind === panel.kind && place.contains(at);
    // Who is at a link in it goes on from there: it is drawn anew once he has left.
    if (inside && at.tagName === "A") return;
    if (panel.kind === "lines") drawLines(panel, place);
    else if (panel.kind === "stat") drawStat(panel, place);
    else if (panel.kind === "states") drawStates(panel, place, window);
    else if (panel.kind === "table") drawTable(panel, place);
    else if (panel.kind === "documents") drawDocuments(panel, place);
    else if (panel.kind === "values") drawValues(panel, place);
    else if (panel.kind === "problem") place.replaceChildren(make("p", "problem", panel.why));
    else place.replaceChildren(make("p", "quiet", "Nothing to show in this time."));
    leftOut(panel, place);
    const scroll = place.querySelector(".scroll");
    if (scroll && panel.kind !== "lines") scroll.scrollTop = scrolledTo;
    if (inside) scroll?.focus();
    place.dataset.kind = panel.kind;
  }

  function say(problem) {
    const at = document.querySelector("[data-drawn-at]");
    if (at && !problem) at.textContent = new Date().toISOString();
    const told = document.querySelector("[data-marks]");
    if (!told) return;
    const names = [...new Set(marks.map((mark) => mark.title))];
    const text = problem ? `not any more: ${problem}` : names.length > 0 ? `Fired in this time: ${names.join(", ")}` : "";
    if (told.textContent !== text) told.textContent = text;
    told.classList.toggle("problem", Boolean(problem));
  }

  const every = Number(page.dataset.refresh ?? 0);
  const drawn = new Map();
  let asking = false;
  async function ask() {
    if (asking || document.hidden || seen.size === 0) return;
    asking = true;
    // Who does not want to be asked again gets what he has not seen yet.
    const wanted = [...seen].filter((id) => every > 0 || !drawn.has(id));
    if (wanted.length === 0) {
      asking = false;
      return;
    }
    try {
      const query = new URLSearchParams(location.search);
      query.set("panels", wanted.join(","));
      const answer = await fetch(`${page.dataset.dashboard}?${query}`, { signal: AbortSignal.timeout(15000) });
      const found = await answer.json();
      if (!answer.ok) throw new Error(found.error);
      marks = found.marks;
      for (const panel of found.panels) draw(panel, found.window);
      for (const panel of found.panels) drawn.set(panel.id, () => draw(panel, found.window));
      say(found.problem);
      performance.measure("drawn", { start: 0 });
    } catch (error) {
      say(error.message);
    } finally {
      asking = false;
    }
    // Panels that came into sight meanwhile.
    if ([...seen].some((id) => !wanted.includes(id) && !drawn.has(id))) ask();
  }

  const watching = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const id = Number(entry.target.dataset.panel);
      if (entry.isIntersecting) seen.add(id);
      else seen.delete(id);
    }
    ask();
  }, { rootMargin: "100px" });
  places.forEach((place) => watching.observe(place));

  if (every > 0) setInterval(ask, every * 1000);
  document.addEventListener("visibilitychange", ask);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach((again) => again()));
})();
