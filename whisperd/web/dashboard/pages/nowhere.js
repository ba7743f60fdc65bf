import { html } from "../vendor/preact.js";
import { Empty, Heading } from "../parts/basics.js";
import { href } from "../router.js";

export function Nowhere() {
  return html`<${Heading}>Nothing here<//>
    <${Empty} title="This address leads nowhere">The <a href=${href("")}>overview</a> shows all there is.<//>`;
}
