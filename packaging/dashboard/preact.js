// What the dashboard takes of Preact, its signals and htm: one module, so that a browser needs no import map.
import { signal, computed, effect, batch } from "@preact/signals";
import htm from "htm";
import { h, render } from "preact";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";

export const html = htm.bind(h);
export { batch, computed, effect, h, render, signal, useEffect, useLayoutEffect, useMemo, useRef, useState };
