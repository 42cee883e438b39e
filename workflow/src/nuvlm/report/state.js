// The reader's choices are stored in the URL fragment as key=value&..., so links and the "back" button restore them.
// A fragment without "=" is a section of the page and leaves the choices unchanged.

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
    /** Change some values; empty ones are removed. `replace`: without a new history entry. */
    change(changes, replace = false) {
      values = Object.fromEntries(Object.entries({ ...values, ...changes }).filter(([, value]) => value !== ""));
      const address = `#${new URLSearchParams(values)}`;
      if (replace) history.replaceState(null, "", address);
      else if (address !== location.hash) history.pushState(null, "", address);
      notify();
    },
    /** Call `listener` now and after every change. */
    follow(listener) {
      listeners.push(listener);
      listener();
    },
  };
})();
