/**
 * The dashboard's `<kqv-attention>` in a notebook. What it asks for is answered by the kernel, so that the page needs no way to
 * the server and no key. `SOURCES` and `STYLES` are the dashboard's files by name, each module after those that it imports.
 */

const HOME = "http://kernel.invalid/dashboard/";
const SHARED = Symbol.for("kqv.widgets");

/** Of the page, which may have many widgets: elements can be defined but once. */
const shared = (globalThis[SHARED] ??= { kernels: new Map(), count: 0, loading: null, fetch: answer });

/** What the modules call in place of fetch: their own files are here, all else is for the kernel of the element that asks. */
async function answer(url, init = {}) {
  const { hostname, pathname } = new URL(url);
  if (String(url).startsWith(HOME)) return new Response(STYLES[pathname.split("/").at(-1)]);
  return shared.kernels.get(hostname)(pathname, init);
}

/** The modules as they are in the package, but that they import each other, and ask, in the ways that there are here. */
async function load() {
  const places = {};
  for (const [name, source] of Object.entries(SOURCES)) {
    const text = source
      .replaceAll(/^((?:import|export)\b[^;"]*)"\.\/([\w-]+\.js)"/gm, (_, before, other) => `${before}"${places[other]}"`)
      .replaceAll("import.meta.url", JSON.stringify(HOME + name));
    const prelude = 'const fetch = (...asked) => globalThis[Symbol.for("kqv.widgets")].fetch(...asked);\n';
    places[name] = URL.createObjectURL(new Blob([prelude, text], { type: "text/javascript" }));
  }
  await import(places["kqv-attention.js"]);
}

async function render({ model, el }) {
  shared.loading ??= load();
  await shared.loading;
  const host = `view-${shared.count++}.kernel.invalid`;
  const waiting = new Map();
  const listen = ({ id, status, headers }, [body]) => {
    waiting.get(id)?.(new Response(body, { status, headers }));
    waiting.delete(id);
  };
  model.on("msg:custom", listen);
  shared.kernels.set(host, (path, { body = null, signal } = {}) =>
    new Promise((resolve, reject) => {
      const id = `${host}/${shared.count++}`;
      waiting.set(id, resolve);
      signal?.addEventListener("abort", () => waiting.delete(id) && reject(signal.reason));
      model.send({ id, path, body });
    }),
  );
  const element = document.createElement("kqv-attention");
  for (const [name, value] of Object.entries(model.get("attributes"))) element.setAttribute(name, value);
  element.setAttribute("src", `http://${host}`);
  el.append(element);
  return () => {
    model.off("msg:custom", listen);
    shared.kernels.delete(host);
  };
}

export default { render };
