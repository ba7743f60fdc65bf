"""Risk detection: what was said that someone should look at, by rules, with its place in the audio.

Pure functions of a transcript and rule packs: no files, no clock, no queue. `rules` is what a pack may say,
`reading` reads one; `words` and `numerals` make of segments what is searched, `phrases`, `pii` and `matching`
search it, `detection` weighs what was found, `redaction` takes it out. It spots words; it is no judgement.

Needs the extra risk (`pip install 'whisperd[risk]'`): google-re2, rapidfuzz and phonenumbers, each loaded
with the first rule that uses it.
"""
