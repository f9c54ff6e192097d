"""What can be planted in the real base, and the words that fill its frames; invented or general, no
persons.
"""

from __future__ import annotations

from dataclasses import dataclass


def _split(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in " ".join(text.split()).split("|"))


FILLERS = {
    "who": _split("""a retired postman|the night porter|a young plumber|the choir master|a bearded
        ferryman|the new apprentice|a shy waiter|the tram driver|a busy nurse|the stage hand|a
        visiting uncle|the lift engineer|a patient tutor|the shoe seller|an absent cousin|the
        piano tuner|a gifted pupil|the bank clerk|a tired cook|the lock keeper|a cheerful florist|
        the chess champion|an eager intern|the dock worker"""),
    "where": _split("""a village hall|the corner shop|a waiting room|the former dairy|an empty
        classroom|the paint factory|a street cafe|the town archive|a crowded lift|the ticket office|
        a hotel lobby|the bakery yard|an open courtyard|the post room|a school canteen|the boat
        shed|a laundry cellar|the back garden|a dentist's practice|the toy store|an upper gallery|
        the ferry lounge|a narrow kitchen|the news stand"""),
    "thing": _split("""bicycle|staircase|wardrobe|teapot|armchair|violin|doorbell|suitcase|
        wheelbarrow|typewriter|fountain|bookcase|umbrella|candlestick|mirror|hammock|weathercock|
        sofa|lantern|piano stool|postcard|fireplace|greenhouse|rowing boat"""),
}


@dataclass(frozen=True)
class Fact:
    """A subject that the base knows, its true value and a false one, and all in other words."""

    subject: str
    true: str
    false: str
    subject_reworded: str
    true_reworded: tuple[str, ...]
    false_reworded: tuple[str, ...]


FACTS = (
    Fact(
        "the capital of Australia",
        "Canberra",
        "Melbourne",
        "the seat of the Australian government",
        _split("""a planned inland town|a city founded in 1913|the largest city away from the coast|
            the city with the round artificial lake"""),
        _split("""the big port in Victoria|the city on the Yarra River|the second largest city of the
            country|the city with the old tram network"""),
    ),
    Fact(
        "the largest planet of the solar system",
        "Jupiter",
        "Neptune",
        "the biggest world that circles our Sun",
        _split("""the giant with the red spot|the fifth one from the centre|the one named after the
            king of the gods|the neighbour of Mars and Saturn"""),
        _split("""the blue ice giant|the outermost one|the one named after the god of the sea|the
            neighbour of Uranus"""),
    ),
    Fact(
        "the main ingredient of glass",
        "sand",
        "chalk",
        "the raw material of window panes",
        _split("""what beaches are made of|what fills an hourglass|tiny grains of quartz|what deserts
            have most of"""),
        _split("""what teachers write with on a blackboard|the soft rock of white cliffs|a powdery
            limestone|the white dust on a gymnast's hands"""),
    ),
    Fact(
        "the metal inside an ordinary electric cable",
        "copper",
        "zinc",
        "what conducts the current in a house",
        _split("""the reddish element with symbol Cu|element number 29|the stuff of old brown coins|
            what turns green on roofs"""),
        _split("""the bluish element with symbol Zn|element number 30|the coating of steel buckets|
            what brass gets from its lighter ore"""),
    ),
    Fact(
        "the tallest animal on land",
        "the giraffe",
        "the ostrich",
        "the highest creature that walks",
        _split("""the spotted one with the long neck|a leaf eater with two small horns|a relative of
            the okapi|the long-legged mammal of the savanna"""),
        _split("""the big bird that cannot fly|the feathered runner|the layer of the largest eggs|a
            relative of the emu"""),
    ),
    Fact(
        "the longest river in Africa",
        "the Nile",
        "the Zambezi",
        "the lengthiest stream of that continent",
        _split("""the one that flows through Cairo|the one that ends in the Mediterranean|the one that
            the pharaohs sailed|the water of Khartoum"""),
        _split("""the one with the Victoria Falls|the border of Zambia|the one that ends in
            Mozambique|the water behind the Kariba dam"""),
    ),
    Fact(
        "the instrument with eighty-eight keys",
        "the piano",
        "the accordion",
        "what has fifty-two white notes and thirty-six black ones",
        _split("""the large one with hammers and strings|the one with a lid and three pedals|the grand
            one on a concert stage|what a tuner visits at home"""),
        _split("""the squeeze box|the one with bellows and buttons|the folk one worn on the chest|the
            one that breathes in and out"""),
    ),
    Fact(
        "the gas that plants take in from the air",
        "carbon dioxide",
        "helium",
        "what leaves absorb in sunlight",
        _split("""what we breathe out|the bubbles of lemonade|what a burning candle gives off|the
            heavy gas of fire extinguishers"""),
        _split("""what party balloons hold|the second lightest element|the noble gas that makes voices
            high|what airships are filled with"""),
    ),
)

FAVOURED = {
    "peculiar": _split("unusual|strange|odd|curious"),
    "splendid": _split("excellent|wonderful|superb|great"),
    "gloomy": _split("dark|dreary|dim|dull"),
    "sturdy": _split("strong|solid|robust|tough"),
    "tranquil": _split("calm|peaceful|quiet|still"),
    "enormous": _split("huge|vast|giant|massive"),
    "delicate": _split("fragile|dainty|fine|frail"),
    "ancient": _split("old|aged|antique|archaic"),
}
"""Word -> words of the same meaning."""


@dataclass(frozen=True)
class Topic:
    """Twenty phrases of a topic, and twenty that mean it without the words of the first."""

    words: tuple[str, ...]
    items: tuple[str, ...]
    reworded: tuple[str, ...]


TOPICS = {
    "volcanoes": Topic(
        _split("volcano|volcanoes|volcanic|lava|magma|crater|eruption|ash|caldera|pumice"),
        _split("""a volcano under ice|volcanic soil|a lava tunnel|the magma chamber|a crater rim|an
            eruption at night|falling ash|a caldera full of water|pumice on a beach|undersea
            volcanoes|a lava lake|volcanic lightning|an ash cloud|the sleeping volcano|a crater path|
            magma rising in a pipe|the eruption of an island|pumice rafts|a caldera wall|volcanic
            glass"""),
        _split("""a mountain that spits fire|molten rock|a glowing river of stone|a smoking summit|a
            cone of cinders|the vent of a burning peak|black basalt columns|a hot spring on a slope|
            liquid rock below the ground|sulphur fumes|a blast that darkens the sky|stones thrown
            from a peak|an island born from fire|grey dust from a burning hill|a bowl at the top of a
            peak|rivers of fire|steam from cracks in the ground|towns buried in hot dust|a peak that
            exploded|rock that floats on water"""),
    ),
    "submarines": Topic(
        _split("submarine|submarines|periscope|torpedo|ballast|sonar|hatch|hull|diving|conning"),
        _split("""a yellow submarine|the periscope|a torpedo room|a ballast tank|the sonar operator|a
            round hatch|the pressure hull|a diving bell|the conning tower|two old submarines|a
            submarine on a museum quay|diving rudders|a sonar echo|the hull of a sunken boat|a
            periscope view|the submarine cook|ballast pumps|a hatch under water|a model submarine|a
            torpedo made of wood"""),
        _split("""a boat that travels below the waves|life beneath the surface|a steel tube under the
            sea|a vessel that sinks on purpose|a captain in the deep|an underwater crew|a silent
            craft in the depths|a viewing tube above the waves|a ship without windows|bunks in a
            pressure vessel|a steel door against the sea|a ship that listens|depth gauges|tanks
            flooded to go down|a dark voyage under ice|an underwater engine|crew sealed in for
            weeks|a craft that rises like a whale|a mast that hides again|the deep sea by
            machine"""),
    ),
    "dinosaurs": Topic(
        _split(
            "dinosaur|dinosaurs|fossil|fossils|skeleton|jurassic|raptor|bones|footprints|extinct"
        ),
        _split("""a dinosaur nest|the Jurassic forest|a fossil tooth|a raptor claw|giant footprints in
            clay|a long-necked dinosaur|old bones in sandstone|the skeleton of a plant eater|extinct
            lizards|fossil eggs|feathered dinosaurs|a horned skull among fossils|the last
            dinosaurs|a raptor skeleton|bones in a desert|a Jurassic swamp|footprints at low tide|
            an extinct giant|a dinosaur with a crest|a fossil hunter"""),
        _split("""the great reptiles of long ago|a monster from deep time|thunder lizards|a beast older
            than any bird|petrified eggs|the age of reptiles|a giant neck above the ferns|scaly
            ancestors of birds|three-toed tracks|teeth turned to stone|a plated tail|creatures that a
            comet killed|a lost world of ferns|a dig in the badlands|a flying reptile|the beast with
            three horns|a tyrant with short arms|vanished giants|an animal known from its teeth
            alone|a reptile as long as a bus"""),
    ),
    "orchestras": Topic(
        _split(
            "orchestra|orchestras|conductor|violin|cello|symphony|concert|oboe|trumpet|rehearsal"
        ),
        _split("""a youth orchestra|the conductor's baton|a cello solo|an unfinished symphony|the oboe
            player|a concert at noon|a long rehearsal|a trumpet call|the second violin|two rival
            orchestras|a symphony in four parts|the trumpet section|an open-air concert|the
            orchestra pit|a borrowed cello|the oboe that gives the pitch|a nervous conductor|a
            violin maker|the dress rehearsal|a radio orchestra"""),
        _split("""eighty people playing together|a baton raised in silence|strings and brass|the pit
            below the stage|a slow movement|sheets of music on stands|a bow drawn across strings|the
            man who beats time|drums at the back of the stage|a piece for many instruments|musicians
            tuning up|players in black|the applause after the last chord|woodwinds in the second
            row|a score full of pencil marks|a horn that comes in late|a large ensemble|harps and
            kettledrums|first desks and last desks|an overture"""),
    ),
    "deserts": Topic(
        _split("desert|deserts|dune|dunes|oasis|camel|camels|cactus|sandstorm|caravan"),
        _split("""a desert at dawn|singing dunes|an oasis with date palms|a camel train|a cactus in
            flower|a sudden sandstorm|the caravan route|a dune as high as a tower|cold deserts|the
            oasis well|a camel market|desert foxes|a caravan at rest|cactus fruit|dunes that wander|
            a sandstorm seen from space|the desert after rain|camels at a trough|a white dune|an
            oasis on an old map"""),
        _split("""a sea of sand|land without rain|nomads in blue robes|mirages on the horizon|wells far
            apart|a waste of stones and heat|tents of goat hair|a place of date palms|beasts with
            humps|ridges shaped by wind|thorny plants that store water|a wind that carries grit|dry
            valleys|stars above bare land|salt flats|a spring among palms|a trek from well to well|
            the empty quarter|hot days and freezing nights|tracks that the wind erases"""),
    ),
}
