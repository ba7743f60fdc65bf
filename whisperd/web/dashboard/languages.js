// The languages that Whisper's models know, by their codes; the browser knows the names. A test holds the list.
const CODES = (
  "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr " +
  "bg lt la mi ml cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn " +
  "yo so af oc ka be tg sd gu am yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su " +
  "yue"
).split(" ");

const names = new Intl.DisplayNames("en", { type: "language", fallback: "code" });
export const languageName = (code) => names.of(code);
const named = CODES.map((code) => [code, languageName(code)]).sort(([, a], [, b]) => a.localeCompare(b, "en"));
export const LANGUAGES = [["auto", "found out"], ...named];
