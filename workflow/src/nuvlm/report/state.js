// What the reader has chosen stands in the address, after #, as key=value&...: a link keeps it, and "back" goes back.
// An address that ends with #name is a section of the page and leaves the choice as it is.

const choice = (() => {
  const listeners = [];
  let values = parse(location.hash) ?? {};

  function parse(hash) {
    const text = hash.slice(1);
    if (text && !text.includes("=")) return null;
    return Object.fromEntries(new URLSearchParams(text));
  }

  function notify() {
    for (const listener of listeners) listener();
  }

  addEventListener("hashchange", () => {
    const found = parse(location.hash);
    if (found === null) return;
    values = found;
    notify();
  });

  return {
    get: (key, otherwise = "") => values[key] ?? otherwise,
    keys: () => Object.keys(values),
    /** Change some values; an empty one is left out. `replace`: as the same entry of the history. */
    change(changes, replace = false) {
      values = Object.fromEntries(Object.entries({ ...values, ...changes }).filter(([, value]) => value !== ""));
      const address = `#${new URLSearchParams(values)}`;
      if (replace) history.replaceState(null, "", address);
      else if (address !== location.hash) history.pushState(null, "", address);
      notify();
    },
    /** Call `listener` now, and whenever the choice changes. */
    follow(listener) {
      listeners.push(listener);
      listener();
    },
  };
})();
