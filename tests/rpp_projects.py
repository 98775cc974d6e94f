"""Hand-made REAPER projects for the tests: every construct that a patch meets or has to leave alone."""

from __future__ import annotations

FIRST_GUID = "{11111111-0000-4000-8000-000000000001}"

EVERYTHING = r"""<REAPER_PROJECT 0.1 "7.61/macOS-arm64" 1700000000 0
  <NOTES 0 2
    |A note with > and < and "quotes"
    |
    |<not a block
    |>
  >
  RIPPLE 0 0
  RECORD_PATH "Media" ""
  <RECORD_CFG
    ZXZhdxgAAQ==
  >
  RENDER_FILE ""
  SAMPLERATE 48000 0 0
  <TEMPOENVEX
    EGUID {4A4E2E8D-5B0B-4E5A-9C0D-0D4C7F4D0B11}
    ACT 1 -1
    PT 0 120 0
  >
  <PROJBAY
  >
  <TRACK {AAAAAAAA-0000-4000-8000-000000000001}
    NAME Ambience
    PEAKCOL 16576
    <FXCHAIN
      WNDRECT 24 52 655 408
      SHOW 0
      LASTSEL 0
      DOCKED 0
      BYPASS 0 0 0
      <VST "VST: ReaEQ (Cockos)" reaeq.dll 0 "" 1919247729<5653547265657172656165710000> ""
        cWVlcu5e7f4CAAAAAQAAAAAAAAACAAAAAAAAAAIAAAABAAAAAAAAAAIAAAAAAAAA
        776t3g3wrd4AAIA/
        AAAQAAAA
      >
      FLOATPOS 0 0 0 0
      FXID {BBBBBBBB-0000-4000-8000-000000000001}
      <PARMENV 1 -60 12 0 "Gain (Band 1)"
        EGUID {BBBBBBBB-0000-4000-8000-000000000002}
        PT 0 0.5 0
      >
      WAK 0 0
      <JS loser/3BandEQ ""
        200 0 2000 0 0 0 - - - -
      >
      <CONTAINER Container "" ""
        CONTAINER_CFG 2 2 2 0
        <VST "VST3: Deep" deep.vst3 0 "" 1{00000000000000000000000000000000} ""
          AAAA////++++
        >
      >
    >
    <ITEM
      POSITION 1.5
      SNAPOFFS 0
      LENGTH 0.5
      LOOP 1
      ALLTAKES 0
      FADEIN 1 0.01 0 1 0 0 0
      FADEOUT 1 0.01 0 1 0 0 0
      MUTE 0 0
      SEL 0
      IGUID {CCCCCCCC-0000-4000-8000-000000000001}
      IID 1
      NAME "The first 'take'"
      VOLPAN 0.8 -0.25 -1.5 -1
      SOFFS 0.25
      PLAYRATE 1.25 1 0 -1 0 0.0025
      CHANMODE 0
      GUID {CCCCCCCC-0000-4000-8000-000000000002}
      <SOURCE WAVE
        FILE "Media/birds.wav"
      >
    >
    <ITEM
      POSITION 3
      LENGTH 0.25
      LOOP 0
      ALLTAKES 0
      SEL 0
      IGUID {CCCCCCCC-0000-4000-8000-000000000003}
      <NOTES
        |a note
      >
      NAME 'has "double" quotes'
      VOLPAN 1 0 1 -1
      SOFFS 0
      PLAYRATE 1 1 0 -1 0 0.0025
      CHANMODE 0
      GUID {CCCCCCCC-0000-4000-8000-000000000004}
      RECPASS 1
      <SOURCE WAVE
        FILE "Media/birds.wav"
      >
      TAKE
      NAME `has "both' kinds`
      TAKEVOLPAN 0 1 -1
      SOFFS 0
      PLAYRATE 1 1 0 -1 0 0.0025
      CHANMODE 0
      GUID {CCCCCCCC-0000-4000-8000-000000000005}
      <SOURCE WAVE
        FILE 'Media/birds.wav'
      >
      TAKE NULL
      TAKE SEL
      NAME plain.wav
      TAKEVOLPAN 0.5 0.7 -1
      SOFFS 0.125
      PLAYRATE 2 0 -3 393216 0 0.0025
      CHANMODE 3
      TAKECOLOR 33319124 B
      GUID {CCCCCCCC-0000-4000-8000-000000000006}
      <SOURCE WAVE
        FILE "Media\birds.wav"
      >
      TKM 0.1 "a bird" 21036800 0
    >
  >
  <TRACK {AAAAAAAA-0000-4000-8000-000000000002}
    NAME "Odd things"
    <ITEM
      POSITION 0
      LENGTH 1
      NAME section
      SOFFS 0
      GUID {DDDDDDDD-0000-4000-8000-000000000001}
      <SOURCE SECTION
        LENGTH 0.5
        MODE 2
        STARTPOS 0.1
        OVERLAP 0.01
        <SOURCE WAVE
          FILE "Media/birds.wav"
        >
      >
    >
    <ITEM
      POSITION 1
      LENGTH 1
      NAME offline
      SOFFS 0
      <SOURCE _OFFLINE_WAVE
        FILE "Media/birds.wav"
      >
    >
    <ITEM
      POSITION 2
      LENGTH 1
      NAME "a melody"
      SOFFS 0 0
      <SOURCE MIDI
        HASDATA 1 960 QN
        E 0 90 3c 60
        <X 240 0
          8AECAwQF9w==
        >
        E 480 80 3c 00
        IGNTEMPO 0 120 4 4
      >
    >
    <ITEM
      POSITION 3
      LENGTH 1
      IGUID {DDDDDDDD-0000-4000-8000-000000000002}
      <NOTES
        |only words
      >
      NOTESWND 38 176 529 55
    >
    <ITEM
      POSITION 4
      LENGTH 0.5
      NAME stretched
      SOFFS 0
      <SOURCE WAVE
        FILE "Media/birds.wav"
      >
      SM 0 0 -0.149 + 0.574 0.5
    >
    <ITEM
      POSITION 5
      LENGTH 0.5
      NAME effects
      SOFFS 0
      <SOURCE WAVE
        FILE "Media/birds.wav"
      >
      <TAKEFX
        SHOW 0
        <VST "VST: ReaEQ (Cockos)" reaeq.dll 0 ""
          cWVlcu5e7f4=
        >
      >
    >
    <ITEM
      POSITION 6
      LENGTH 0.5
      NAME envelope
      SOFFS 0
      <SOURCE WAVE
        FILE "Media/birds.wav"
      >
      <VOLENV
        EGUID {5CB63539-0B47-4094-97FA-C62230F23208}
        ACT 1 -1
        PT 0 1 0
      >
    >
    <ITEM
      POSITION 7
      LENGTH 0.5
      LOCK 1
      NAME locked
      SOFFS 0
      <SOURCE WAVE
        FILE "Media/birds.wav"
      >
    >
    <ITEM
      POSITION 8
      LENGTH 0.5
      ALLTAKES 1
      NAME chorus
      SOFFS 0
      <SOURCE WAVE
        FILE "Media/birds.wav"
      >
    >
    <ITEM
      POSITION 9
      LENGTH 0.5
      NAME gone
      SOFFS 0
      <SOURCE WAVE
        FILE "Media/gone.wav"
      >
    >
    <ITEM
      POSITION 10
      LENGTH 0.5
      IGUID {DDDDDDDD-0000-4000-8000-000000000003}
      TAKE SEL
      NAME "behind an empty slot"
      TAKEVOLPAN 0 1 -1
      SOFFS 0
      PLAYRATE 1 1 0 -1 0 0.0025
      CHANMODE 0
      GUID {DDDDDDDD-0000-4000-8000-000000000004}
      <SOURCE WAVE
        FILE "Media/birds.wav"
      >
    >
    <ITEM
      POSITION 11
      LENGTH 0.5
      IGUID {DDDDDDDD-0000-4000-8000-000000000005}
      NAME "silent things"
      SOFFS 0
      PLAYRATE 1
      CHANMODE 0
      <SOURCE WAVE
        FILE "Media/birds.wav"
      >
      <TAKEFX
        SHOW 0
      >
      <PANENV
        ACT 0 -1
        PT 0 1 0
      >
      TMINFO 44100
      TM 104 671 6270
    >
  >
  <TRACK {AAAAAAAA-0000-4000-8000-000000000003}
    NAME ""
    <FREEZE 1
      <ITEM
        POSITION 0
        LENGTH 1
        NAME inside
        SOFFS 0
        <SOURCE WAVE
          FILE "Media/birds.wav"
        >
      >
    >
    <ITEM
      POSITION 0
      LENGTH 1
      NAME frozen
      SOFFS 0
      <SOURCE WAVE
        FILE "Media/birds.wav"
      >
    >
  >
  <EXTENSIONS
    <SWS x
      y "z
    >
  >
>
"""
"""Every construct, with LF. The last track has no name of its own."""

REFUSED = {
    "section": "its source is a section or reversed",
    "offline": "its media is offline",
    "a melody": "it is a MIDI item",
    "": "it is an empty item",
    "stretched": "its take has stretch markers",
    "effects": "its take has effects",
    "envelope": "its take has a volume envelope",
    "locked": "it is locked",
    "chorus": "it plays all its takes at once",
    "frozen": "its track is frozen",
}
"""What is said of items of `EVERYTHING` that are left alone, by the name of their take."""


def crlf(text: str) -> bytes:
    """The same project as REAPER on Windows writes it."""
    return text.replace("\n", "\r\n").encode()


def item(
    *,
    file: str = "a.wav",
    position: float = 0.0,
    length: float = 1.0,
    name: str = "take",
    guid: int = 1,
    more: str = "",
    source: str = "WAVE",
    offset: float = 0.0,
) -> str:
    """One plain item; `more` are further lines of its take."""
    return f"""    <ITEM
      POSITION {position:g}
      LENGTH {length!r}
      LOOP 0
      ALLTAKES 0
      SEL 0
      IGUID {{EEEEEEEE-0000-4000-8000-{guid:012d}}}
      NAME "{name}"
      VOLPAN 1 0 1 -1
      SOFFS {offset!r}
      PLAYRATE 1 1 0 -1 0 0.0025
      CHANMODE 0
      GUID {{FFFFFFFF-0000-4000-8000-{guid:012d}}}
      <SOURCE {source}
        FILE "{file}"
      >
{more}    >
"""


def project(*tracks: tuple[str, str], head: str = "") -> str:
    """A project of (track name, items)."""
    body = "".join(
        f'  <TRACK {{00000000-0000-4000-8000-{number:012d}}}\n    NAME "{name}"\n{items}  >\n'
        for number, (name, items) in enumerate(tracks, start=1)
    )
    return f'<REAPER_PROJECT 0.1 "7.61/linux-x86_64" 1700000000 0\n{head}{body}>\n'
