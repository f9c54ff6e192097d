"""The registers of the neutral text: requests, and of each the sentences from which a passage takes
one a slot.
"""

from __future__ import annotations

WORDS = {
    kind: [word.strip() for word in words.split("|")]
    for kind, words in {
        "name": (
            "Anna|Ben|Clara|David|Elena|Frank|Grace|Henry|Irene|Jonas|Karin|Leo|Maria|Nils|Olga|Paul|Rosa|Samuel"
        ),
        "place": (
            "Alderbrook|Birchley|Cloverton|Dunmere|Eastham|Fernhill|Greywater|Hazelford|Ivydale|Juniper Bay"
        ),
        "plant": (
            "the wood anemone|the field maple|the sea lavender|the marsh fern|the wild thyme|the"
            " alpine aster|the water mint|the black alder|the common reed|the dwarf birch"
        ),
        "bird": (
            "the reed warbler|the crested lark|the stock dove|the water rail|the barn swallow|the"
            " grey wagtail"
        ),
        "region": (
            "river valleys|open hillsides|damp meadows|coastal dunes|old orchards|limestone"
            " slopes|quiet lakes"
        ),
        "season": "spring|early summer|late summer|autumn|winter",
        "month": "March|April|May|June|September|October|November",
        "day": "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday",
        "hour": "eight|nine|ten|two|three|four|five",
        "colour": "pale yellow|dark green|blue|reddish brown|white|grey|violet|copper",
        "size": "twenty|thirty|forty|sixty|eighty|ninety",
        "few": "two|three|four|five|six",
        "room": "kitchen|hall|workshop|spare room|library|attic|garden shed",
        "thing": (
            "bookshelf|wooden stool|bird house|picture frame|cupboard door|window box|table"
            " lamp|coat rack"
        ),
        "tool": "screwdriver|small saw|tape measure|soft brush|spirit level|hand drill",
        "material": "pine|oak|steel|cotton|linen|bamboo|glass|recycled paper|ceramic|wool",
        "product": (
            "teapot|desk lamp|rain jacket|notebook|storage box|kitchen scale|blanket|water bottle|"
            "backpack|clock"
        ),
        "vegetable": (
            "carrots|leeks|potatoes|courgettes|tomatoes|parsnips|beans|mushrooms|peppers|spinach"
        ),
        "herb": "parsley|thyme|basil|chives|rosemary|dill",
        "dish": "soup|stew|salad|bake|pie|pasta sauce",
        "grain": "rice|barley|lentils|noodles|couscous|bread",
        "animal": "cat|dog|goat|donkey|tortoise|rabbit|hen",
        "trade": "baker|postman|gardener|librarian|tailor|clockmaker|ferryman|teacher",
        "object": "key|lantern|umbrella|map|letter|coin|kite|basket",
        "weather": "a light rain|a cool wind|thin fog|bright sunshine|a soft snow|a warm breeze",
        "event": (
            "book fair|spring market|choir evening|repair cafe|chess tournament|harvest"
            " supper|lantern walk"
        ),
        "hobby": "painting|pottery|rowing|knitting|photography|woodwork|gardening|chess",
        "concept": (
            "evaporation|friction|a pulley|an echo|a magnet|condensation|a lever|a"
            " shadow|buoyancy|a rainbow"
        ),
        "kind": "numbers|words|prices|dates|names|temperatures|lengths",
        "verb": "sort|count|add up|reverse|filter|print|average",
        "subject": (
            "the new timetable|the garden beds|the reading room|the cycle path|the notice board|"
            "the lending shelf"
        ),
        "transport": "train|bus|ferry|bicycle|tram",
        "taste": "mild|rich|fresh|slightly sweet|hearty|light",
    }.items()
}

REGISTERS: dict[str, tuple[list[str], list[list[str]], str]] = {
    "encyclopaedia": (
        [
            "Write a short encyclopaedia entry on {plant:a}.",
            "What is known about {plant:a}?",
            "Describe {plant:a}.",
        ],
        [
            [
                "{plant:a} is a plant that grows in {region}.",
                "{plant:a} is found mostly in {region} and {region}.",
                "{plant:a} is a hardy plant of {region}, known for its {colour} leaves.",
            ],
            [
                "It reaches a height of about {size} centimetres and flowers in {season}.",
                "It grows slowly and stands about {size} centimetres tall when mature.",
            ],
            [
                "The flowers are {colour} and have {few} petals.",
                "Its seeds are {colour} and ripen in {month}.",
                "The stem is {colour}, and the leaves stand in pairs.",
            ],
            [
                "{bird} is often seen near it.",
                "It is visited by bees and small moths.",
                "The roots hold loose soil together.",
                "Gardeners value it because it needs little water.",
            ],
        ],
        " ",
    ),
    "how-to": (
        [
            "How do I repair a {thing:a}?",
            "Explain how to build a {thing:a}.",
            "Give me steps to clean a {thing:a}.",
        ],
        [
            [
                "1. Clear a table in the {room} and lay out a {tool} and a {tool}.",
                "1. Put the {thing:a} on an old cloth and gather a {tool}.",
                "1. Measure twice and note the numbers.",
            ],
            [
                "2. Check every joint and mark the loose ones with a pencil.",
                "2. Wipe all surfaces with a damp cloth and let them dry.",
                "2. Cut {few} pieces of {material} to length.",
            ],
            [
                "3. Put a little glue on each edge and press the parts together.",
                "3. Tighten the screws by hand, one after the other.",
                "3. Sand the edges lightly along the grain.",
            ],
            [
                "4. Wait about {size} minutes before you move it.",
                "4. Leave it overnight in a dry place.",
                "4. Test it with a light weight first.",
            ],
        ],
        "\n",
    ),
    "dialogue": (
        [
            "Write a short dialogue between two neighbours, {name:a} and {name:b}.",
            "{name:a} meets {name:b} at the garden fence. Write what they say.",
        ],
        [
            [
                "{name:a}: Good morning! Is that a new {thing:t}?",
                "{name:a}: Hello, did you sleep well after the party?",
                "{name:a}: Hi there, {weather} today, isn't it?",
            ],
            [
                "{name:b}: Yes, I finished it on {day}. It took {few} evenings.",
                "{name:b}: Good morning! I was just looking for my {animal}.",
                "{name:b}: It is. I might plant {vegetable}.",
            ],
            [
                "{name:a}: If you like, I can lend you my {tool}.",
                "{name:a}: Would you like some {vegetable} from my garden?",
                "{name:a}: Are you coming to the {event} on {day}?",
            ],
            [
                "{name:b}: That would be lovely, thank you. I will bring {grain} in return.",
                "{name:b}: With pleasure. Shall we meet at {hour}?",
                "{name:b}: Gladly. Bring {name:c} along too.",
            ],
        ],
        "\n",
    ),
    "letter": (
        [
            "Write a letter from {name:a} to {name:b}.",
            "{name:a} writes to {name:b} after a journey. Write the letter.",
        ],
        [
            ["Dear {name:b},"],
            [
                (
                    "Thank you for your letter of last {day}. We arrived in {place} by {transport}"
                    " and found {weather}."
                ),
                "I hope this finds you well. The {season} in {place} has been quiet so far.",
            ],
            [
                "Yesterday we walked through {region} and saw {bird} for the first time.",
                "I have started {hobby} again and spend every {day} evening in the {room}.",
                "The {event} was small but cheerful, and {name:c} asked after you.",
            ],
            [
                "Please write soon and tell me how the {vegetable} are growing.",
                "I will send a few pictures when I am back in {month}.",
            ],
            ["With warm regards,\n{name:a}", "Yours,\n{name:a}"],
        ],
        "\n",
    ),
    "recipe": (
        [
            "Give me a recipe for a {dish:d} with {vegetable:v}.",
            "How can I cook {vegetable:v} for {few} people?",
        ],
        [
            [
                "Wash {size} grams of {vegetable:v} and cut them into small pieces.",
                "Peel the {vegetable:v} and slice them thinly.",
            ],
            [
                "Warm some oil in a wide pan and add an onion and a little {herb}.",
                "Heat the oven and butter a flat dish.",
            ],
            [
                "Add the {vegetable:v} with {vegetable} and stir for {few} minutes.",
                "Pour in a cup of water, cover the pan and let it simmer for {size} minutes.",
            ],
            [
                "Season with salt, pepper and {herb}, and serve with {grain}.",
                "The {dish:d} tastes {taste} and keeps for {few} days in a cool place.",
            ],
        ],
        " ",
    ),
    "product": (
        [
            "Write a product description of a {product:p}.",
            "Describe a {product:p} made of {material:m} for a shop.",
        ],
        [
            [
                "This {product:p} is made of {material:m} and comes in {colour} and {colour}.",
                "A simple {product:p} of {material:m} for everyday use.",
            ],
            [
                "It is {size} centimetres wide and weighs little, so that it fits into any {room}.",
                "The surface is easy to clean and feels pleasant to the touch.",
            ],
            [
                "Each piece is finished by hand in {place}.",
                "All parts can be replaced if they wear out.",
            ],
            [
                "Delivery takes {few} to {size} days.",
                "It comes with a cotton bag and a short manual.",
                "Customers like it as a gift in {season}.",
            ],
        ],
        " ",
    ),
    "story": (
        [
            "Tell a short story about a {trade:t} and a {object:o}.",
            "Write the beginning of a story set in {place:p}.",
        ],
        [
            [
                "In {place:p} there lived a {trade:t} who owned a {colour} {object:o}.",
                (
                    "One morning in {month} the {trade:t} of {place:p} found a {object:o} on the"
                    " doorstep."
                ),
            ],
            [
                "Nobody knew where it came from, and {weather} lay over the roofs.",
                "A {animal} followed close behind, as it did every {day}.",
            ],
            [
                "{name} from the {room} thought that it belonged to the {trade}.",
                "So the two of them set out by {transport} and asked at every house.",
            ],
            [
                "When evening came they sat down under a tree and shared some {grain}.",
                "At last a child laughed and said: it is mine, I lost it in {season}.",
            ],
            [
                "From then on the {object:o} hung above the door.",
                "And the {trade:t} never locked the {room} again.",
            ],
        ],
        " ",
    ),
    "code": (
        [
            "Explain with comments what a function does that has to {verb:v} a list of {kind:k}.",
            "Write a commented function to {verb:v} {kind:k}.",
        ],
        [
            [
                "# This function takes a list of {kind:k} and will {verb:v} them.",
                "# Helper that can {verb:v} {kind:k} from a file.",
            ],
            ["def process({kind:k}):", "def run({kind:k}, limit=10):"],
            [
                "    # Start with an empty result, so that an empty list gives an empty answer.",
                "    # Copy the list first: the caller's own list stays as it is.",
            ],
            ["    result = []", "    result = list({kind:k})"],
            [
                "    # Go through the {kind:k} one by one and keep those that are not empty.",
                "    # Only the first {few} entries are looked at.",
            ],
            ["    return result", "    return sorted(result)"],
        ],
        "\n",
    ),
    "notice": (
        ["Write a notice about {subject:s} in {place:p}.", "Announce the {event:e} in {place:p}."],
        [
            ["Notice to all residents of {place:p}:", "News from the town hall of {place:p}."],
            [
                "From {day} on, {subject:s} will be open from {hour} in the morning.",
                "The {event:e} takes place on {day} at {hour} in the old {room}.",
            ],
            [
                "Please bring a chair and, if you can, some {vegetable}.",
                "Admission is free, and everyone is welcome.",
                "The {transport} stops nearby every {size} minutes.",
            ],
            [
                "Questions are answered by {name} at the desk.",
                "In case of {weather} it will be moved indoors.",
            ],
        ],
        " ",
    ),
    "diary": (
        [
            "Write a diary entry of a {trade:t} in {season}.",
            "Write what {name} might note in a diary on a {day}.",
        ],
        [
            [
                "{day}. Up at {hour}, {weather} outside.",
                "{day}, {place}. A slow start with tea and {grain}.",
            ],
            [
                "Worked on the {thing} until noon and then tidied the {room}.",
                "{name:a} came by with {vegetable}, and we talked about {hobby}.",
            ],
            ["The {animal} slept all day beside the stove.", "Saw {bird} on the way home."],
            [
                "Tomorrow I want to finish the {thing} and write to {name:b}.",
                "Early to bed; the {event} is on {day}.",
            ],
        ],
        " ",
    ),
    "review": (
        [
            "Write a review of a {product:p}.",
            "Write what a visitor thought of the {event:e} in {place}.",
        ],
        [
            [
                "I have used the {product:p} for {few} months now.",
                "We went to the {event:e} with {few} friends.",
            ],
            [
                "The {material} looks good and has kept its {colour} colour.",
                "The food was {taste}, above all the {dish}.",
            ],
            [
                "What I would change is the size, which is a little too large for a small {room}.",
                "Getting there by {transport} was easy, though it was crowded at {hour}.",
            ],
            [
                "All in all I would choose it again.",
                "I would recommend it to anyone who enjoys {hobby}.",
                "Four out of five stars.",
            ],
        ],
        " ",
    ),
    "explanation": (
        ["Explain {concept:c} to a child.", "What is {concept:c}? Answer in a few sentences."],
        [
            [
                "You can see {concept:c} at home with very simple things.",
                "The easiest way to understand {concept:c} is to try it out.",
            ],
            [
                "Take a {object} and a bowl of water and watch closely for {few} minutes.",
                "Put a {object} on a flat table near a lamp and move it slowly.",
            ],
            [
                "First nothing seems to happen, then a small change can be noticed.",
                "What you notice depends on the distance, the warmth and the weight.",
            ],
            [
                "The same thing happens outdoors in {season}, only on a larger scale.",
                "People have used this for a long time, for example on farms and ships.",
            ],
        ],
        " ",
    ),
}
