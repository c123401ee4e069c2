/* The brush in a frame of its own: for Streamlit before 1.51, whose components talk to the page by messages. */

import brush from "./brush.js";

const COLOURS = {
  "--st-text-color": "textColor",
  "--st-background-color": "backgroundColor",
  "--st-secondary-background-color": "secondaryBackgroundColor",
  "--st-primary-color": "primaryColor",
  "--st-font": "font",
};

const tell = (type, content) => window.parent.postMessage({ isStreamlitMessage: true, type, ...content }, "*");

function render({ args, theme }) {
  for (const [name, key] of Object.entries(theme || {}).length ? Object.entries(COLOURS) : [])
    if (theme[key]) document.documentElement.style.setProperty(name, theme[key]);
  const setStateValue = (_, value) => tell("streamlit:setComponentValue", { value, dataType: "json" });
  brush({ data: args, parentElement: document, setStateValue });
}

document.body.innerHTML = await (await fetch("brush.html")).text();
window.addEventListener("message", (event) => {
  if (event.source === window.parent && event.data && event.data.type === "streamlit:render") render(event.data);
});
new ResizeObserver(() =>
  tell("streamlit:setFrameHeight", { height: Math.ceil(document.body.getBoundingClientRect().height) }),
).observe(document.body);
tell("streamlit:componentReady", { apiVersion: 1 });
