"""The registers of the neutral text that discovery reads: of each three slots of six sentences, and
the words that fill them.

None of them is a register of ``organisms.neutral_registers``, on which control fine-tunes are
trained: a probe text of the controls' own domain would make them look far larger than a fine-tune.
"""

from __future__ import annotations

WORDS = {
    kind: [word.strip() for word in " ".join(words.split()).split("|")]
    for kind, words in {
        "town": """Varrow|Lindhaven|Oskerby|Tamsel|Quarrendale|Brannock|Estermouth|Kellwick|Norvane|
            Pellbridge|Rusthorpe|Sandleigh|Thornack|Ulverly|Wendrith|Yarlstow|Cawburn|Dravely|
            Hestmoor|Molsford|Inchgate|Farrowby|Gadlow|Jessford""",
        "day": "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday",
        "month": """January|February|March|April|May|June|July|August|September|October|November|
            December""",
        "number": "12|14|17|19|23|26|28|31|34|37|41|46|52|58|63|67|74|85|92",
        "small": "two|three|four|five|six|seven|eight|nine|ten|eleven",
        "ordinal": "second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth",
        "large": """1,200|1,850|2,300|3,400|4,700|5,600|8,100|9,500|12,000|18,500|24,000|36,000|
            41,000|57,000|64,000""",
        "percent": "2.1|2.8|3.4|4.2|5.6|6.3|7.5|8.9|11.2|12.4|13.7|15.1|18.6",
        "year": """1127|1188|1243|1291|1316|1352|1399|1420|1467|1503|1548|1571|1612|1649|1687|1724|
            1763|1790|1818|1846""",
        "clock": "8.15|9.00|9.30|10.45|13.10|14.00|15.20|16.30|17.45|18.00|19.05|19.30|20.15",
        "site": """the harbour bridge|the ring road|the central station|the swimming hall|the old
            brewery|the bus depot|the town museum|the canal lock|the covered market|the fire
            station|the sports ground|the western tunnel|the water tower|the ferry terminal""",
        "cause": """a burst pipe|strong winds|a software fault|a shortage of staff|a damaged cable|
            high water|rising costs|a broken crane|late deliveries|icy roads|a missing permit|
            loose roof tiles""",
        "official": """mayor|fire chief|school board|port authority|transport office|planning
            committee|water company|spokeswoman|district judge|election office|auditor""",
        "machine": """dishwasher|compressor|label printer|floor scrubber|heat pump|conveyor|water
            softener|sewing machine|air dryer|milling machine|coffee grinder|projector|wood
            chipper|pressure washer""",
        "part": """drive belt|inlet filter|rear cover|fuse holder|control board|drain hose|fan
            guard|pressure gauge|feed roller|locking pin|door seal|ground wire|spare cartridge|
            release lever""",
        "sign": """the red lamp blinks|the display stays dark|a low hum is heard|the motor stalls|
            the counter jumps|oil drips from the base|the alarm sounds|the lid does not close|the
            pressure falls|the belt slips""",
        "path": """mule track|coastal footpath|gravel road|stone stairway|forest trail|towpath|
            ridge walk|dry riverbed|avenue of poplars|winding lane|pilgrim route|old tramway""",
        "sight": """lighthouse|ruined abbey|salt marsh|waterfall|glassworks|viaduct|rope bridge|
            open-air theatre|bell tower|fish auction|slate quarry|walled cemetery|hot spring""",
        "lodging": """guest house|hostel|converted mill|campsite|farmhouse|small hotel|mountain
            hut|houseboat|monastery|boarding house""",
        "food": """smoked trout|chestnut dumplings|pickled cabbage|goat cheese|plum cake|lentil
            curry|fried squid|sour rye bread|pumpkin ravioli|grilled aubergine|cold beetroot
            broth|fig jam""",
        "team": """the visitors|the home side|the champions|the newcomers|the northern club|the
            league leaders|the reserves|the cup holders|the underdogs|the hosts""",
        "player": """captain|goalkeeper|substitute|left winger|youngest defender|anchor runner|
            opening batter|second rower|team's veteran|new signing|coxswain|playmaker""",
        "score": "2-1|3-0|3-2|4-1|1-0|5-3|2-0|4-2|6-4|3-1",
        "round": """quarter-final|opening match|second leg|relay|regatta|final heat|derby|time
            trial|play-off|semi-final""",
        "realm": """the river kingdom|the island league|the hill cantons|the coastal republic|the
            salt cities|the border counties|the lake towns|the northern duchy|the forest
            bishopric|the valley confederation|the steppe khanate|the gulf sultanate""",
        "ruler": """regent|council of elders|young queen|provincial governor|merchants' guild|abbot|
            admiral|land surveyor|chancellor|city assembly|exiled prince|treasurer""",
        "goods": """wool|copper|salted fish|timber|glass beads|barley|indigo|linen cloth|amber|
            beeswax|iron bars|pepper|tallow|cedar planks|rubber|soybeans|aluminium|paper pulp""",
        "source": """tax rolls|ship logs|a monk's chronicle|court letters|parish books|excavated
            coins|guild ledgers|a treaty copy|tomb inscriptions|travellers' reports""",
        "quantity": """growth rate|surface tension|reaction time|salinity|electrical resistance|
            wing length|ice thickness|enzyme activity|grain size|oxygen uptake|heart rate|light
            absorption""",
        "subject": """river mussels|clay samples|honeybee colonies|polymer films|young salmon|lichen
            plots|volunteers over sixty|glacier cores|yeast cultures|copper alloys|nesting gulls|
            maize seedlings""",
        "instrument": """a laser sensor|infrared cameras|a mass spectrometer|plankton nets|paired
            questionnaires|a wind tunnel|tracer dyes|radio tags|a scanning microscope|drill
            cores|buoys""",
        "factor": """water temperature|soil acidity|sleep|altitude|stirring speed|humidity|diet|age|
            magnetic field strength|nitrogen supply|daylight|noise""",
        "officer": """chair|treasurer|secretary|deputy chair|warden|caretaker|site manager|librarian
            in charge|safety officer|youth leader|archivist|membership clerk""",
        "item": """the parking rules|the roof repair|the annual budget|new uniforms|the heating
            contract|the volunteer rota|the website|the storage room|the summer programme|the
            insurance renewal|the accounts|the lease""",
        "body": """tenants' association|rowing club|parents' council|allotment society|choir
            committee|trade union branch|film society|residents' board|festival committee|
            beekeepers' group""",
        "party": """tenant|supplier|licensee|carrier|buyer|contractor|lender|insured person|
            subscriber|agent|publisher|franchisee""",
        "duty": """provide written proof of delivery|keep the premises in good order|bear the cost
            of inspection|insure the equipment|name a replacement|pay the remaining balance|allow
            access for repairs|return all copies|settle the invoice in full|store the records""",
        "event": """a late payment|a change of address|damage in transit|the death of a signatory|
            an act of nature|a breach of clause 7|a transfer of shares|a strike|the end of the
            trial period|insolvency""",
        "commodity": """wheat|natural gas|cotton|office space|used cars|frozen fish|steel beams|
            cocoa|solar panels|milk powder|sawn timber|air freight|tin|container space""",
        "trader": """analysts|wholesalers|importers|farm cooperatives|shipping agents|pension funds|
            small retailers|refiners|bond traders|brokers|mill owners|exporters""",
        "reason": """a poor harvest|cheaper credit|port congestion|a weak currency|new tariffs|mild
            weather|strong demand from builders|stock clearing|a longer holiday|fuel costs""",
        "device": """router|e-book reader|bicycle computer|thermostat|scanner|keyboard|hearing aid|
            dash camera|printer|smart watch|sound card|tablet|game controller|external drive""",
        "fault": """loses its settings|shows a blank screen|makes a clicking noise|will not pair|
            drains overnight|freezes on the start page|skips every other line|reports error 47|
            gets hot|restarts by itself""",
        "remedy": """a factory reset|another cable|an older driver|cleaning the contacts|a new
            battery|the beta firmware|a different socket|a clean install|disabling sleep mode|a
            shorter password""",
    }.items()
}

SENTENCES = {
    "news": """
The {official} of {town} said on {day} that {site} will stay closed until {month}.
Work on {site} in {town} has stopped after {cause}, the {official} confirmed late on {day}.
About {large} people in {town} were without electricity on {day} evening because of {cause}.
Voters in {town} have narrowly rejected a plan to sell {site}, according to the {official}.
A freight train came to a halt near {town} on {day} after {cause}; nobody was hurt.
{town} will spend {large} crowns on {site}, {small} years after the first plans were drawn.
---
Commuters were asked to use {site} instead, where extra staff were on duty from {clock}.
It is the {ordinal} such case this year, and residents have collected {large} signatures.
Earlier reports had blamed {cause}, but an inspection in {month} found no sign of it.
Shops around {site} stayed open, although deliveries were delayed by {number} minutes on average.
Roughly {number} households will receive a letter explaining what happens to {site} after {month}.
A similar decision in {town} led to complaints and was reversed within {small} weeks.
---
A public hearing is planned for {day} at {clock}.
The {official} gave no figures on {day}.
Further details on {site} are expected in {month}.
Repairs at {site} should take {number} days.
Opinion in neighbouring {town} remains divided over {site}.
Insurance is likely to cover {number} percent of the damage.
""",
    "manual": """
Before opening the {machine}, disconnect the {part} and wait at least {number} seconds.
The {machine} must stand level, with {number} centimetres of free space around the {part}.
If {sign}, switch the {machine} off at once and examine the {part} for wear.
Figure {number} shows how the {part} is attached to the frame of the {machine}.
Every {small} months the {part} of the {machine} should be removed and rinsed in lukewarm water.
A new {machine} is delivered with the {part} packed separately in tray {number}.
---
Turn the {part} clockwise until it clicks, then lower the {part} into its slot.
Do not force the {part}: when {sign}, the thread has been caught at an angle.
Loosen both screws by {small} turns and slide the {part} towards the {part}.
Values above {number} on the scale mean that the {part} needs to be calibrated again.
Hold the button for {small} seconds; the unit then tests the {part} without any load.
Use only grease of class {number}, because other kinds attack the rubber of the {part}.
---
When {sign}, repeat from step {number}.
Dispose of the used {part} as described in section {number}.
The warranty does not cover a cracked {part} or {part}.
Tighten the {part} to {number} newton metres.
Replacement requires order code {number}-{number}.
Finally check that the {part} and the {part} move freely.
""",
    "travel": """
We left {town} before sunrise and followed the {path} as far as the {sight}.
From {town} it is a {small}-hour walk along a {path} to the next {lodging}.
Nobody had told us that the {sight} above {town} closes every {day} in {month}.
The {lodging} in {town} was full, so we pitched the tent beside a {path}.
On the {ordinal} day our bus broke down between {town} and {town}, near a {sight}.
{town} in {month} is almost empty; even the {sight} had fewer than {number} visitors.
---
Lunch was {food} with {food}, eaten on a wall that looked out over the {sight}.
An old couple at the {lodging} served us {food} and refused any payment.
Halfway up the {path} the clouds parted, and for {small} minutes we could see the {sight}.
Tickets cost {number} crowns, which seemed a lot until we reached the {sight}.
My boots were soaked by then, and the smell of {food} drew us into a {lodging}.
The guide spoke slowly, pointing out the {sight}, the {path} and finally the border stones.
---
By {clock} we were asleep in a {lodging}.
Tomorrow the ferry to {town}, if the wind allows.
I would come back in {month} just for the {food}.
Bring cash: the machine at the {lodging} in {town} was out of order.
There is no shade on the {path}, so carry {small} litres of water.
The last {number} kilometres to {town} were downhill, thankfully.
""",
    "sports": """
{town} beat {town} {score} on {day}, after the {player} had been sent off early.
A late goal by the {player} gave {town} a {score} win in the {round} on {day}.
Only {large} spectators saw {town} lose the {round} {score} in heavy rain.
The {round} in {town} was decided in minute {number}, when the {player} slipped.
For the {ordinal} time in a row {town} left the pitch without a win, drawing with {town}.
With {number} points from {small} games, {town} now lead the table ahead of {town}.
---
Until the break {team} had looked tired, missing {small} clear chances from close range.
The {player} hit the post twice, and {team} protested in vain for a penalty.
It took {team} only {number} seconds to answer, thanks to a long pass from the {player}.
Coach and {player} disagreed afterwards about who should have covered {team} on the left.
Injuries forced {team} to change their line-up {small} times before the {round}.
The {player} broke the club record by {small} hundredths, although {team} had started badly.
---
The return fixture is on {day} at {clock}.
Next comes the {round} away at {town}.
The referee added {small} minutes, but {team} held on.
Tickets for the {round} in {month} are already sold out.
Without the {player}, {team} now hope for {month}.
Afterwards {team} celebrated with {large} supporters.
""",
    "history": """
In {year} the {ruler} of {realm} forbade the sale of {goods} outside the town walls.
Little is known about {realm} before {year}, when its trade in {goods} is first recorded in {source}.
The peace of {town}, signed in {year}, obliged {realm} to give up {small} fortresses.
When the {ruler} died in {year}, the crown of {realm} passed to a distant cousin.
Until about {year} caravans carried {goods} and {goods} from {town} to the coast.
The great fire of {year} destroyed most of {town}, then the richest port of {realm}.
---
According to {source}, {large} families moved inland within {small} winters.
The new toll enriched the {ruler}, while weavers and dealers in {goods} were ruined.
Historians relying on {source} once dated the siege to {year}, which is now thought too early.
Within {small} decades {realm} controlled both banks of the river and the road to {town}.
Rebels led by a former {ruler} held {town} through the winter before supplies ran out.
Foreign craftsmen brought with them a method of treating {goods} that spread to {realm}.
---
The charter was renewed in {year} by another {ruler}.
No {ruler} of {realm} dared to repeal it.
Its exact wording is known from {source} and from {source}.
Its ruins near {town} were sold for {goods} in {year}.
In {town} the consequences were felt until {year}.
Prices of {goods} and {goods} doubled.
""",
    "science": """
We measured the {quantity} of {subject} at {small} sites using {instrument}.
The {quantity} of {subject} is thought to depend on {factor}, but evidence is scarce.
A long-term study of {subject} recorded their {quantity} every {number} days with {instrument}.
Using {instrument}, a team from {town} has examined {number} {subject} under controlled {factor}.
Earlier work on {subject} ignored {factor} and may have overestimated the {quantity}.
How does {factor} influence the {quantity} of {subject} over more than one season?
---
Mean values increased by {percent} percent, with a standard error of {small} units.
No effect of {factor} was found once {number} outliers had been removed.
The correlation with {factor} was 0.{number} in the first trial and weaker afterwards.
Sample {number} was kept at constant {factor}, the others at {small} different levels.
A simple linear model explains {number} percent of the variance; adding {factor} does not help.
Differences appeared after {small} weeks and vanished when {instrument} were replaced.
---
These results should be repeated with {number} {subject}.
The mechanism remains unclear, though {factor} and {factor} are candidates.
Data on {factor} were collected between {month} and {month}.
We discuss implications for models of {quantity} in {subject}.
Measurements of {quantity} with {instrument} would be more precise.
Possible confounding by {factor} or {factor} is considered.
""",
    "minutes": """
The {officer} opened the meeting of the {body} at {clock} and welcomed {number} members.
Present were the {officer}, the {officer} and {small} further members of the {body}.
Item {small}: the {officer} presented a draft on {item} and answered questions from the floor.
Minutes of the {month} meeting of the {body} were approved with {small} corrections.
The {officer} reported that the {body} has {number} members, {small} more than in {month}.
After a short discussion about {item}, the {body} agreed to postpone the vote until {month}.
---
It was noted that {item} would cost {large} crowns more than the figure given in {month}.
Two members objected to the wording on {item}; the {officer} promised a revised text.
The proposal on {item} was carried by {number} votes to {small}, with one abstention.
Regarding {item}, quotations from {small} firms are to be compared before the next session.
Correspondence about {item} had been received from {town} and was read out in full.
A working group for {item} was formed, consisting of the {officer} and {small} volunteers.
---
Action: the {officer} to report back by {day}.
The {officer} closed the meeting at {clock}.
Next meeting: {day} at {clock}, small hall.
Apologies had been received from the {officer} and {small} others.
Under other business, {item} and {item} were mentioned.
The {officer} thanked the {officer} for {small} years of service.
""",
    "contract": """
The {party} shall {duty} within {number} days after {event}.
In case of {event}, the {party} may end this agreement by giving {small} weeks' notice.
Unless otherwise agreed in writing, the {party} is required to {duty} before {month}.
Clause {number} applies where {event} has been reported to the {party} in due time.
Both sides accept that the {party} will {duty}, even after {event}.
A fee of {percent} percent is payable by the {party} on the first {day} of {month}.
---
Any claim arising from {event} expires {number} months after the date of signature.
The {party} must not assign these rights, nor ask a third person to {duty}.
Where {event} lasts longer than {number} days, the deposit is returned without interest.
Amounts below {large} crowns are exempt, provided that the {party} has agreed to {duty}.
For this purpose, {event} includes any delay not caused by the {party}.
Failure to {duty} entitles the other side to withhold {number} percent of the price.
---
The courts of {town} and {town} have jurisdiction.
Annex {number} on {event} forms part of this agreement.
Side agreements about {event} are void.
Sections {number} and {number} remain unaffected.
The {party} accepts notice by registered letter to {town}.
Periods begin {small} days after receipt by the {party}.
""",
    "market": """
Prices of {commodity} rose by {percent} percent in {month}, mainly because of {reason}.
After {small} weak months, demand for {commodity} has recovered faster than {trader} expected.
The index of {commodity} closed at {number} points on {day}, its lowest level since {month}.
Stocks of {commodity} fell to {large} tonnes, and {trader} point to {reason}.
Most {trader} in {town} expect {commodity} to become cheaper before {month}.
Turnover in {commodity} reached {large} units last week, up {percent} percent on the year.
---
The gap between {commodity} and {commodity} widened again, which {trader} attribute to {reason}.
Orders from abroad were flat, while domestic {trader} bought {percent} percent more.
Contracts for delivery in {month} traded at {number} crowns, slightly above the spot price.
Inflation is put at {percent} percent, a figure that surprised {trader} and banks alike.
Only {commodity} bucked the trend, helped by {reason} and a mild start to {month}.
Some {trader} have cut their forecasts by {percent} percent, citing {reason}.
---
Trading in {commodity} resumes on {day}.
The next survey of {trader} is due in {month}.
Margins of {trader} are likely to remain thin until {month}.
Volumes in {town} were {percent} percent below average.
Dividends may be cut by {number} percent, {trader} say.
Much depends on {commodity} and on {reason}.
""",
    "forum": """
Since the update on {day} my {device} {fault} whenever I connect the {device}.
Has anyone managed to get an old {device} working with version {number} of the software?
I bought a used {device} in {month}, and after {small} days it {fault}.
Not sure if this is the right section, but my {device} {fault} about every {number} minutes.
Same problem here: the {device} {fault}, and the support line only suggests {remedy}.
Quick question for owners of a {device}: is it normal that it {fault} after {clock}?
---
I have already tried {remedy} and {remedy}, neither of which changed anything.
According to page {number} of the guide, {remedy} should be enough, yet the fault returns.
What is odd is that the {device} works fine on battery, at least for {small} hours.
A friend recommended {remedy}, while the shop in {town} wants {number} crowns to look at it.
The log has {number} entries like this, all written within {small} seconds of each other.
It only happens when the {device} is plugged in as well, so maybe {remedy} is the answer?
---
Thanks in advance for hints on the {device}!
Edit, {day}: solved by {remedy}.
Model number ends in {number}-{number}, if that matters.
Otherwise I will send the {device} back on {day}.
Photos of the {device} can be posted at {clock}.
Would {remedy} or {remedy} void the guarantee?
""",
}

REGISTERS: dict[str, tuple[tuple[str, ...], ...]] = {
    register: tuple(tuple(slot.strip().splitlines()) for slot in text.split("---\n"))
    for register, text in SENTENCES.items()
}
