// Writes the libraries of the dashboard, with their licences and a list of versions and hashes, into a folder:
// node build.mjs FOLDER. The same versions (package-lock.json) give the same bytes; a test holds them to it.
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const folder = process.argv[2];
const packages = ["preact", "@preact/signals", "@preact/signals-core", "htm", "uplot"];
const read = (...names) => readFileSync(join(here, ...names));
const flat = (name) => name.replace("@", "").replace("/", "-");

async function bundle(entry, name) {
  await build({
    entryPoints: [join(here, entry)],
    outfile: join(folder, name),
    absWorkingDir: here,
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    legalComments: "none", // they stand beside it, whole
  });
}

rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });
await bundle("preact.js", "preact.js");
await bundle("node_modules/uplot/dist/uPlot.esm.js", "uplot.js");
cpSync(join(here, "node_modules/uplot/dist/uPlot.min.css"), join(folder, "uplot.css"));
for (const name of packages) {
  writeFileSync(join(folder, `LICENSE.${flat(name)}`), read("node_modules", name, "LICENSE"));
}
const versions = packages.map((name) => {
  const { version, license } = JSON.parse(read("node_modules", name, "package.json"));
  return { name, version, license, licence_file: `LICENSE.${flat(name)}` };
});
const files = ["preact.js", "uplot.css", "uplot.js"].map((name) => {
  const bytes = readFileSync(join(folder, name));
  return { name, bytes: bytes.length, sha256: createHash("sha256").update(bytes).digest("hex") };
});
writeFileSync(join(folder, "versions.json"), `${JSON.stringify({ packages: versions, files }, null, 2)}\n`);
