"use strict";
// Elements are created, never parsed from HTML: text from files cannot become markup.

function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** A class as text with its subscript: νe CC. */
function classLabel(plain) {
  const parts = /^ν(.) (.*)$/.exec(plain);
  return parts ? element("span", {}, "ν", element("sub", {}, parts[1]), ` ${parts[2]}`) : element("span", {}, plain);
}
