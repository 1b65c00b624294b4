"""Common words that the invented libraries of the public exercises are named after.

Promises:
- The list is fixed: the most frequent lower-case words in the sources of Python 3.11's standard
  library, without keywords and abbreviations.
- No word is a name, or part of a name, of the private house library. What the private records
  teach must not be known beforehand.
"""

_TEXT = """
name the module all that this are get use used will set only object but which have list value
type must when should file decode join may string function has any default one errors first
encode using input method new encoding other was data format end error argument code more then
into make number does result call case line current start its like also called before check
range some there print than tuple after here python time given main path same non returns read
empty values each names next already returned write they because been create methods see bytes
exception specified you need support base instance instead version final strict items split info
without since close either org single two available find functions arguments just found match
replace them text output passed these mode level objects message defined filename last optional
source encodings following user remove types cannot copy otherwise parse strings always
generated raised table between both compile exit most possible contains run files such handle
different update about being needed test want warnings done now standard build would length long
specific their way whether example part index what attribute could even through until calls
created decoding provided uses warn pop super another back ignore command search sequence work
exists lines valid left still added interface lower right clear defaults invalid process strip
classes directly multiple state too above header means original based prefix were buffer context
itself necessary character property special sub contain form full group calling platform removed
unknown bit com exist flag flags func never useful extend old system directory including those
allow avoid common how once second simple debug modules required running convert include named
provides extra know local loop might program written entry keyword binary currently expected
later parameter present zero below parser under variable access closed ignored insert integer
nothing package parent block existing options point root supported takes callable change help
keep library protocol store times top actually item iter many raises skip sort well internal
override place reference results target traceback byte got issue made mapping real register
anything details during load needs previous unless cache control instances raw reset safe allows
built content handling normal parts supports within ensure per really starting stop allowed
correct extension off our tuples accept enter every float offset possibly rather returning space
your behavior globals operation style actual pos reading requires complete escape exec happen
regular socket thread trailing versions again fail future handler implement option position
something though variables contents provide three usage very writing action leading matches
newline pair reduce similar spec status supplied yet arbitrary bad encoded failed generate lists
longer matching missing numbers own relative rest wait wrapper child headers known less look
negative send sets tell various appear changed event probably around fix flush pattern script
win caller fields initial stack total zip absolute converted date define element elements err
exactly gets partial server setting shared specifies stored timeout works according backward
better changes frame received separate specify starts cause custom doing followed includes
modified modify public setup spaces syntax assume body constants determine field filenames
groups makes maximum messages paths tests wrap address factory fails force remaining simply
creating inside much parsing related separator word words algorithm client enough equal intended
namespace note pairs put quote seconds sent show signal stuff together upper whose width adding
attempt checking delete depending fixed had imported included link prevent purpose reason seen
side slots wrong able big hash indicates opened positive reverse testing threading bar beginning
best chain checked double generator meaning omitted passing recursive seek several tree usually
why callback chars effect enable entire formatted likely occurs plus release require taken
verbose warning against comment dump email handled large numeric suffix suitable accepted adds
blocking bugs closing compiled debugging handles helper location looks memory pathname plain
platforms replaced request resource short statement systems active assumed basic bits catch
charset checks described digits due events explicit follows happens occur pack parsed resulting
section thing token trying abstract addition apply blank compiler counter depends desired
extended follow identity imports indicate lock making pre quoted response runs shutdown step
view wrapped becomes begin broken commands comments creates creation ends good having important
leave literal looking null problem processed report requested speed started things translate
working alias array chunk compare derived executed fast host integers manager maybe member
nested outside
"""

WORDS: tuple[str, ...] = tuple(_TEXT.split())
