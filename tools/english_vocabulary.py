"""Make vtx_keras/inputs/english.txt again, from WordNet and the English CLDR emoji names.

    python tools/english_vocabulary.py
    python tools/english_vocabulary.py --wordnet FILE.deb --annotations FILE.tgz --derived FILE.tgz

An archive that is not given is fetched with its client, `apt-get download` or `npm pack`, into --cache.
Each one has to match its SHA-256 below. See vtx_keras/inputs/README.md for sources and licences.
"""

import argparse
import hashlib
import io
import json
import re
import subprocess
import tarfile
from pathlib import Path

from vtx_keras import text

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {  # option: (command that puts the archive into the current folder, the file's pattern, SHA-256)
    "wordnet": (
        ["apt-get", "download", "wordnet-base=1:3.0-37"],
        "wordnet-base_*.deb",
        "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
    ),
    "annotations": (
        ["npm", "pack", "cldr-annotations-full@48.2.0"],
        "cldr-annotations-full-*.tgz",
        "28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1",
    ),
    "derived": (
        ["npm", "pack", "cldr-annotations-derived-full@48.2.0"],
        "cldr-annotations-derived-full-*.tgz",
        "4be946ff5815f806ec78b50363d577a769f2fbfb90c6380a44e161a92436996e",
    ),
}

# How often each kind of text is repeated. A word has to occur some sixty times to become one piece: every word of an
# emoji name and every everyday word does, a keyword does if eight emoji share it, and a word of WordNet if it is
# frequent there.
NAME, KEYWORD, EVERYDAY = 120, 8, 200
LETTERS = "éèêëáàâäãåçñíîïóôöõøúûüßæœ"
SIGNS = "’‘“”–—°£€©®×•"
FOREIGN = re.compile(rf"[^\x20-\x7e{LETTERS}{SIGNS}]")

# WordNet defines the things on a photograph but rarely uses their names in sentences, so the words of everyday captions
# are listed here. Nouns are used with their plurals, the other words as they are.
NOUNS = """
adult airplane airport aisle album alley ambulance animal ankle antelope apartment appetizer apple appliance
apron aquarium arch area arm arrow artist athlete audience avenue avocado awning baby back backpack bag bagel
bakery balcony ball balloon banana band bank banner bar barbecue barn barrel barrier base basement basin
basket bat bath bathroom bathtub batter battery bay beach beak bean bear beard bed bedroom bedspread bee bell
belt bench berry beverage bicycle bicyclist bike biker bikini billboard bin bird biscuit blackberry blackboard
blanket blender blind block blouse blueberry board boat body book bookcase bookshelf boot booth bottle bow
bowl box boy bracelet branch breakfast brick bride bridge brush bubble bucket buffet building bull bun burger
burrito bus bush butterfly button cabin cabinet cable cafe cage cake camel camera camp can candle candy canoe
cap car card carnival carpet carrot cart cartoon case castle cat catcher ceiling cell cemetery center centre
cereal chain chair chalkboard chandelier cheese cheeseburger chef cherry chest chicken chimney chip chocolate
church cigarette circle city class classroom clock closet cloth cloud clown club coach coast coat cobblestone
coffee coin collar college color colour column commuter computer condiment cone container controller cook
cookie cooler corner costume cottage couch counter countertop country couple court courtyard cow cowboy crab
cracker crane crate creature crib cross crosswalk crowd crown cube cup cupboard cupcake curb curtain curve
cushion customer cyclist dancer day deck desert desk device diner dinner dish dishwasher display dock dog doll
dolphin donut door doorknob doorway doughnut dragon drawer drawing dress drink driver driveway drone drum duck
dugout ear earring egg elephant elevator enclosure engine entrance envelope escalator evening event eye face
fan farm farmer father faucet feather fence ferry field figure finger fire firefighter fireplace firetruck
fish flag floor flower food forest fork forklift fountain frame freezer fridge friend frisbee frog fruit game
garage garden gate gazelle giraffe girl glass glove goat goggle gown grandfather grandmother grandparent grape
greenhouse grill ground group guard guest guitar gun guy hair hairdryer hall hallway ham hamburger hand
handbag handle hangar harbor harbour hat head headphone heart hedge helicopter helmet herd highway hill
hillside hippo hole home hood horn horse hose hospital hotdog hotel hour house hydrant iceberg icing image
individual instrument intersection iron island item jacket jar jean jersey jet jetliner jockey judge juice
jungle kangaroo kettle keyboard kid kitchen kite kitten knee knob ladder lady lake lamb lamp lane laptop lawn
leash leather leg lemon library lid lifeguard light lighthouse lime line lion lip lipstick lobby lobster
locomotive log lot lounge lunch machine magazine magnet mailbox mane map marina market mascot mask mat
mattress meadow meal meat meatball medal menu message microphone microwave middle mirror mitt model monitor
monkey monument moped morning mother motor motorbike motorcycle motorcyclist mountain moustache mouth muffin
mug mule museum mushroom musician nap napkin neck necklace necktie net night noodle nose notebook number nut
oar object ocean office officer olive onion orange orchard ostrich outfit oven owl owner pack package paddle
page paint painting pair palm pan pancake panda pant paper parade parasol parent park parrot party passenger
pastry patch path patio pavement pavilion paw pea peach pear pedestal pedestrian pen pencil penguin pepper
person phone photo photograph photographer piano pickle picnic picture pie piece pier pig pigeon pile pillow
pilot pineapple pipe pirate pitcher pizza place plane plant plastic plate platform platter player playground
plaza plum pocket polar pole pond pony pool porch post poster pot prairie price puddle pumpkin puppy purse
puzzle rabbit race racer rack racket racquet radio rail railing railroad railway rain rainbow raincoat ram
ramp ranch range raspberry rat ray reception referee reflection refrigerator remote restaurant restroom rhino
ribbon rider ring river road robe robot rock roof rooftop room rope rose row rug runner runway saddle sail
sailboat salad salon sand sandal sandwich sauce saucer sausage scene school scissor scooter screen sculpture
sea seagull seat sedan seed shade shadow shape shed sheet shell ship shirt shoe shop shopper shore short
shoulder shower shrub side sidecar sidewalk sign signal sink sister skate skateboard skateboarder skatepark
skater ski skier skirt sky skyline skyscraper slice slide slipper slope smile smoke snack snake sneaker
snowboard snowboarder soap sock sofa soldier soup spatula speaker spectator spoon spot sprinkle square
squirrel stack stadium stair staircase stall stand stapler star station statue steak stem step stick sticker
stone stool stop store stove straw strawberry stream street stripe stroller structure student stuff suburb
subway suit suitcase sun sunflower sunglass sunrise sunset surf surface surfboard surfer swan sweater
sweatshirt swimmer swing switch table tablecloth tablet tag tail tank tarmac tattoo taxi tea teacher team teen
teenager telephone television temple tent terminal terrace theater theatre thing throw tie tiger tile tire
tissue toast toaster toddler toilet tongue tool toothbrush top tourist towel tower town toy track tractor
trail trailer train tray tree trick tricycle trip tripod trolley trophy truck trunk tub tulip tunnel turkey
turtle tuxedo tyre umbrella umpire uniform urinal utensil van vanity vase vegetable vehicle vendor vest video
view village vine visitor waffle wagon waiter waitress walkway wall wallet walnut wardrobe washer watch water
waterfall watermelon wave wedding weed wetsuit whale wheel wheelchair windmill window windshield wine wing
wire word worker world wrap wrist yacht yard yogurt zebra zoo zucchini
"""
WORDS = """
asparagus baseball basketball beer bread broccoli bunch businessman calf celery child cutting deer dessert
dirt fisherman football gentleman goose grass grocery knife leaf lettuce living luggage man mango mouse
parking pasta people police policeman potato rice scarf sheep shelf snow snowman soccer soda spinach steam
sushi tennis tomato tooth toothpaste traffic tv volleyball woman wood men women children mice feet teeth geese
leaves loaves knives wolves halves shelves scarves calves firemen policemen fishermen businessmen snowmen
clothes clothing pants shorts jeans scissors sunglasses glasses headphones furniture silverware graffiti
cattle wildlife equipment scenery frosting whipped a an the this that these those his her its their my your
our he she it they we you i him them me who which what there and or but with without while as at by for from
in into inside of off on onto out outside over through to toward towards under underneath up down upon near
nearby next beside besides between behind below beneath above across after along alongside among amongst
around against away before during front left right bottom about like than then so not no is are was were be
been being am do does doing done did has have having had could will would should may might must lets get gets
getting got make makes making made take takes taking took taken one two three four five six seven eight nine
ten eleven twelve thirteen fourteen fifteen sixteen twenty thirty forty fifty hundred thousand first second
third last several some many few multiple various other others another each both all every any more most very
just only also too together alone half full empty lots single double black white red green blue yellow pink
purple brown grey gray gold golden silver beige tan teal turquoise colorful colourful colored coloured dark
bright pale multicolored striped checkered plaid polka floral big small large little tiny huge giant tall long
wide narrow thin thick high low old young new modern antique vintage ancient elderly middle-aged beautiful
pretty cute handsome lovely nice funny silly happy sad angry smiling laughing excited serious tired sleepy
busy crowded quiet clean dirty dusty rusty messy neat tidy shiny wet dry hot warm cold cool frozen icy snowy
rainy sunny cloudy foggy stormy windy clear overcast sandy rocky muddy grassy leafy wooden metal metallic
concrete cement ceramic stainless steel paved unpaved tiled furry fluffy hairy shaggy bald bearded barefoot
shirtless naked dressed decorated decorative ornate fancy fresh ripe cooked baked fried grilled toasted sliced
chopped cut uncooked raw frosted glazed topped filled stuffed covered loaded stacked piled lined parked closed
open opened broken damaged abandoned old-fashioned public private urban rural residential downtown indoor
indoors outdoor outdoors electric electronic digital professional british american chinese japanese asian
african european english french italian mexican london standing sitting walking running riding holding wearing
looking eating drinking playing laying lying sleeping resting jumping skateboarding skiing snowboarding
surfing swimming flying driving traveling travelling going coming moving crossing passing pulling pushing
carrying throwing catching hitting swinging kicking serving pitching batting sliding racing skating climbing
hiking cycling biking sailing rowing floating fishing hanging leaning bending kneeling crouching squatting
posing talking speaking singing dancing waving pointing reaching touching petting feeding grazing chewing
biting licking cooking baking slicing preparing cleaning washing brushing drying combing shaving reading
writing typing working using watching waiting shopping selling buying showing displaying displayed putting
placing staring peeking sniffing chasing hugging kissing celebrating attached attempting trying performing
practicing competing herding leading pouring filling growing blooming blowing burning shining reflecting
reflected surrounding surrounded covering crashing breaking falling landing boarding arriving leaving
approaching turning facing stopped stopping sits stands walks runs rides holds wears looks eats drinks plays
lays lies sleeps rests jumps flies drives goes comes moves crosses passes pulls pushes carries throws catches
hits swings kicks serves slides races skates climbs hangs leans poses smiles laughs talks shows reads works
uses watches waits prepares feeds grazes rode ridden held sat stood seated wore worn looked ate eaten drank
played laid lay slept jumped flew flown drove driven went gone came moved crossed passed pulled pushed carried
threw thrown caught hit swung kicked served slid posed smiled walked ran tied hung placed used shown seen
mounted connected arranged painted written printed daytime nighttime afternoon dusk dawn today summer winter
spring autumn fall season christmas birthday holiday weather wind sunshine sunlight daylight close closeup
background foreground distance selfie shot t-shirt hot-dog teddy ping pong cellphone smartphone iphone website
internet email emoji potatoes tomatoes mangoes fishes groceries desserts tvs milk butter cream fries syrup
sugar honey salt mustard ketchup bacon pepperoni ice cutlery grasses cupcakes drier asleep assorted attempts
cluttered crouch crouches curled curvy decker downhill uphill granite marble oatmeal savanna slalom spraying
sprayed swims tabby taxiing trestle underwater unripe wildebeest spaghetti garlic airborne midair abstract
ashore backside blurry blurred checkerboard dangling docked dotted draped dressing enjoying examining fenced
folded gathered gathering gesturing giving grabbing hovering inspecting inflatable juggling knitted leafless
loading lounging nestled overgrown overlooking perched perching pictured pointed polished relaxing rolling
rounded rubbing sheared shallow shaded skinny speckled splashing sprawled steep steering stretched stretching
stroll strolling sunlit tasty tilted tossing towing unfinished unmade upside viewed wades wading weathered
woolly wrapped dining
"""


def archive(option: str, given: Path | None, cache: Path) -> Path:
    """Return the path of a source archive, after checking its hash; it is fetched if it is not given."""
    command, pattern, expected = SOURCES[option]
    if given is None:
        cache.mkdir(parents=True, exist_ok=True)
        if not list(cache.glob(pattern)):
            subprocess.run(command, cwd=cache, check=True)
        given = max(cache.glob(pattern))
    actual = hashlib.sha256(given.read_bytes()).hexdigest()
    if actual != expected:
        raise SystemExit(f"{given} has SHA-256 {actual}, expected {expected}: get it with `{' '.join(command)}`.")
    return given


def wordnet(path: Path) -> list[str]:
    """Return glosses with their examples once, and each lemma as often as WordNet's tagged texts use it."""
    package = path.read_bytes()
    at = 8  # a .deb is an `ar` archive: a magic line, then members with 60-byte headers on even offsets
    while not package[at : at + 16].startswith(b"data.tar"):
        size = int(package[at + 48 : at + 58])
        at += 60 + size + size % 2
    size = int(package[at + 48 : at + 58])
    with tarfile.open(fileobj=io.BytesIO(package[at + 60 : at + 60 + size])) as tar:
        files = {
            Path(member.name).name: tar.extractfile(member).read().decode("utf-8", "replace")
            for member in tar
            if member.isfile() and "/usr/share/wordnet/" in member.name
        }
    texts = []
    for part in ("noun", "verb", "adj", "adv"):
        for line in files[f"data.{part}"].splitlines():
            fields, bar, gloss = line.partition(" | ")
            if line.startswith("  ") or not bar:  # the licence, at the top of each file
                continue
            # Years of birth and similar numbers are the most frequent "words" of WordNet, and useless in captions.
            texts.append(re.sub(r"\d{3,}", " ", gloss))
            _, _, _, count, *words = fields.split()
            lemmas = [word.split("(")[0] for word in words[: 2 * int(count, 16) : 2]]
            texts += [lemma.replace("_", " ") for lemma in lemmas if lemma.islower()]  # names are capitalised
    for line in files["cntlist.rev"].splitlines():
        key, _, times = line.split()
        texts += [key.partition("%")[0].replace("_", " ")] * int(times)
    return texts


def emoji(path: Path, member: str, key: str) -> list[str]:
    """Return the names and keywords of one CLDR file, repeated NAME and KEYWORD times."""
    with tarfile.open(path) as tar:
        entries = json.load(tar.extractfile(f"package/{member}"))[key]["annotations"].values()
    names = [name for entry in entries for name in entry.get("tts", ())]
    keywords = [word for entry in entries for word in entry.get("default", ())]
    return names * NAME + keywords * KEYWORD


def plural(noun: str) -> str:
    """Return the regular plural of a noun.

    >>> plural("berry"), plural("box")
    ('berries', 'boxes')
    """
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + ("es" if re.search(r"(s|x|z|ch|sh)$", noun) else "s")


def main() -> None:
    """Write the vocabulary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in SOURCES:
        parser.add_argument(f"--{option}", type=Path)
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "vocabulary")
    parser.add_argument("--out", type=Path, default=ROOT / "vtx_keras" / "inputs" / "english.txt")
    parser.add_argument("--size", type=int, default=8000)
    options = parser.parse_args()
    paths = {option: archive(option, getattr(options, option), options.cache) for option in SOURCES}

    texts = wordnet(paths["wordnet"])
    texts += emoji(paths["annotations"], "annotations/en/annotations.json", "annotations")
    texts += emoji(paths["derived"], "annotationsDerived/en/annotations.json", "annotationsDerived")
    nouns = NOUNS.split()
    texts += [" ".join(nouns), " ".join(map(plural, nouns)), WORDS] * EVERYDAY
    # Every character that the vocabulary must have, once at the start of a word and once inside one.
    texts += ["".join(map(chr, range(33, 127))), " ".join(LETTERS + SIGNS), "a" + "a".join(LETTERS)]
    texts = [" ".join(word for word in text.normalize(line).split() if not FOREIGN.search(word)) for line in texts]
    # A punctuation mark is always a word of its own, so pieces like "##!" would never be used.
    unused = re.compile(rf"##[^a-z0-9{LETTERS}]")
    # The trainer stops within 5% of the size that was asked for: ask for more, and keep the most frequent.
    pieces = text.learn(texts, options.size * 11 // 10)
    pieces = [piece for piece in pieces if not unused.fullmatch(piece)][: options.size]
    options.out.write_text("\n".join(pieces) + "\n", encoding="utf-8")
    print(f"{len(pieces)} pieces in {options.out}")


if __name__ == "__main__":
    main()
