// Files may be dropped anywhere on the page.
import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { may } from "../session.js";
import { send } from "../uploading.js";
import { icon } from "./icons.js";

const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");

export function DropZone({ children }) {
  const [over, set] = useState(false);
  const depth = useRef(0); // the pointer leaves each element that it enters
  useEffect(() => {
    const on = { dragenter: enter, dragover: hold, dragleave: leave, drop };
    for (const [name, handle] of Object.entries(on)) addEventListener(name, handle);
    return () => Object.entries(on).forEach(([name, handle]) => removeEventListener(name, handle));
  }, []);

  function enter(event) {
    if (!hasFiles(event) || !may("submit")) return;
    depth.current += 1;
    set(true);
  }
  function hold(event) {
    if (hasFiles(event)) event.preventDefault(); // else the browser opens the file
  }
  function leave(event) {
    if (!hasFiles(event)) return;
    depth.current = Math.max(0, depth.current - 1);
    if (!depth.current) set(false);
  }
  function drop(event) {
    if (!hasFiles(event)) return;
    event.preventDefault();
    depth.current = 0;
    set(false);
    if (may("submit")) send(event.dataTransfer.files);
  }
  return html`${children}${over && html`<div class="drop" aria-hidden="true"><p>${icon("submit")}Drop audio or video to transcribe it</p></div>`}`;
}
