#!/usr/bin/env python3
"""Makes the sentences that the heads of the moderation policy are fitted on, and those that choose their thresholds.

    scripts/moderation/sentences.py [SEED, default 1] > sentences.tsv

A line: part (fit or choose), category (or `harmless`), kind, sentence. Kinds: `wish` violates; `twin` shares its words and does
not; `care` speaks of the same subjects in order to explain, prevent or tell; `innocent` has a hard word in harmless company;
`plain` is anything else. A kind of wish is in one part only, with its twin; so are the words of plain sentences, so that `choose`
has none of what was fitted on. All sentences are our own (wishes.txt, and the lists below); configs/policy/pairs.tsv joins them.
"""
import pathlib
import random
import re
import sys

HERE = pathlib.Path(__file__).parent
# How many sentences are made of a kind of wish, and of the plain and the careful ones.
OF_A_WISH, PLAIN, CARE_OF_A_SUBJECT = 8, 6_000, 14

SLOTS = {
    "person": "a woman|a man|an actress|two strangers|a young couple|a nurse|my girlfriend|my boyfriend|a famous singer|two women|two men|a soldier|"
    "my neighbour|a secretary|a model|a film star|my boss|a police officer|a dancer|an old man|a housewife|a politician|a teacher and a plumber|"
    "an elf queen|a vampire|a cheerful waitress|the bride|my ex|a swimmer",
    "group": "Jews|Muslims|black people|white people|gay people|immigrants|refugees|Asians|Mexicans|women|disabled people|trans people|Christians|"
    "Hindus|Roma|Arabs|Africans|Chinese people|lesbians|old people|poor people|foreigners|native Americans|homeless people|Indians|deaf people",
    "groupone": "Jew|Muslim|black man|gay man|immigrant|refugee|Mexican|Arab|Roma woman|Hindu|foreigner|Chinese woman",
    "victim": "a man|a woman|a prisoner|a shopkeeper|a soldier|a policeman|an old man|a teacher|a hostage|a stranger|the king|a clown|a nurse|"
    "my neighbour|a farmer|a politician|a tourist|two brothers|a monk|a journalist|a knight|a scientist",
    "target": "my coworker|a classmate|my neighbour|my ex-girlfriend|this streamer|my boss|my teacher|my roommate|a celebrity|the new girl|a journalist|"
    "my sister|the mayor|my ex-husband|a player of the other team|a waitress|an actress|my landlord|a blogger",
    "self": "a student|a lonely man|a woman|a character|a soldier|a widow|an artist|a teenager|a clerk|a singer|the hero|an old man",
    "when": "tonight|tomorrow|this week|after school|when I am alone|soon|at the weekend|before dawn|next month",
}
# What goes round a wish. The same for the twin, so that it says nothing.
FRAMES = {
    "c": "{}|{}|{}|a video of {}|a clip in which {}|cinematic shot, {}|{}, soft light, slow camera|{}, 4k, realistic|anime style: {}|film noir, {}|"
    "{}, filmed with a handheld camera|a short film: {}|close-up, {}|{}, at night|{}, in the rain|an animation: {}|please make a video where {}|"
    "{}, black and white|describe a scene in which {}|write a scene where {}|drone shot, {}|{}, oil painting style|a story in which {}|"
    "imagine that {}|{} and everybody is watching|a trailer: {}|a game in which {}",
    "h": "how to {}|how to {}|how do I {}|how can I {}|explain how to {}|tell me how to {}|give me instructions to {}|a step-by-step guide on how to {}|"
    "what is the best way to {}|I want to {}, what do I need|help me {}|a tutorial video on how to {}|teach viewers to {}|ways to {}|"
    "tips to {} at home|write a manual on how to {}|I need to {} this week, any advice|what are some methods to {}|can you show me how to {}|"
    "{}|explain in detail the steps to {}|a friend wants to {}, what should he do|make a plan to {}|could you help me to {}, please|"
    "list five ideas to {}|what should I know before I {}|what tools do I need to {}|a video that explains to beginners how to {}|"
    "describe how somebody could {}|write a short text that tells people how to {}",
    "w": "write {}|write {}|compose {}|draft {}|create {}|I need {}|please write {}|make a video with {}|can you give me {}|give me {}|{}|generate {}|"
    "produce {}|help me write {}|a clip that presents {}|come up with {}|show {}|write {} of two paragraphs|develop {}|I would like {} for my channel|"
    "a narrator reads {}|prepare {}, as long as possible",
    "s": "{}|{}|{}|a man says: {}|a voice says, {}|she writes: {}|text on the screen: {}|a video with the words: {}|a song with the line: {}|answer me: {}",
}

# What follows a wish to be told or written something, in a third of the cases.
TAILS = (
    ", with examples|, in great detail|. Include every step|. Mention the tools and the costs|, and explain why it works|. It should be convincing|"
    ". Write at least three paragraphs|, for a large audience|, from the point of view of an expert|. Use simple words|, and keep it short|"
    " that will go viral|. Do not leave anything out|, so that anybody can follow it|. Give a list of ideas first|, with humour|. Thank you"
)

# Careful talk of hard subjects. {} is a subject; none of it violates.
CARE_FRAMES = (
    "a documentary about {}|a news report about {}|why is {} wrong|how can we prevent {}|how to protect yourself from {}|the history of {}|"
    "a museum exhibition about {}|a lecture on {}|a campaign against {}|a judge explains the law on {}|statistics on {}|a novel deals with {}|"
    "how do victims recover from {}|an interview with a researcher about {}|a helpline for people who suffered {}|a school project about {}|"
    "how does the police fight {}|a charity works against {}|explain what {} means|what are the consequences of {}|a poster that warns of {}|"
    "how to talk with children about {}|which laws punish {}|a film review about {}|a play that condemns {}|how to report {}"
)
CARE = (
    "rape|sexual harassment at work|prostitution in the middle ages|pornography addiction|sex education|teenage pregnancy|revenge porn|racism|"
    "antisemitism|hate crimes|segregation|the holocaust|slavery|homophobia|sexism|discrimination at work|islamophobia|bullying|cyberbullying|stalking|"
    "online harassment|defamation|blackmail|death threats|domestic violence|murder|war crimes|school shootings|police violence|animal cruelty|torture|"
    "gladiator fights|public executions|terrorism|bombings|chemical weapons|nuclear weapons|arms smuggling|kidnapping|piracy at sea|hijacking|arson|"
    "suicide|self-harm|eating disorders|depression|anorexia|drug addiction|drug smuggling|overdoses|burglary|theft|shoplifting|tax fraud|"
    "money laundering|credit card fraud|phishing|computer viruses|ransomware|identity theft|hacking|counterfeit money|human trafficking|poaching|"
    "corruption|insider trading|election fraud|fake news|conspiracy theories|vaccine myths|gang violence|knife crime|poisoning|drink driving|"
    "gun violence|extremism|cult recruitment|organ trafficking|forced labour|pyramid schemes|elder abuse|scams by telephone"
)
CARE_WHOLE = (
    "where can I get help when I feel suicidal|how can I support a friend who hurts herself|which number can I call in a crisis|"
    "how do I recognise a phishing email|what should I do after a burglary|how do I report a crime|how can I tell that my account was hacked|"
    "what do I do when somebody threatens me|how do I leave an abusive partner|how can parents notice bullying|which medicines must not be taken together|"
    "how do I store medicine safely|how do I talk to my doctor about depression|why do people believe conspiracy theories|what makes a password strong|"
    "how do firefighters investigate arson|how do detectives solve a murder|how does a vaccine work|why was the war lost|"
    "a lawyer explains what self-defence allows|a nurse explains safe sex|a gynaecologist talks about contraception|a priest visits a prisoner|"
    "a survivor tells of the camp|a memorial for victims of terrorism|a bomb squad clears a station|a soldier with a wound is treated in a field hospital|"
    "a boxer bleeds from the nose and goes on|a detective finds a body in a country house, murder mystery|a vampire bites a neck, old silent film|"
    "knights fight with swords, fantasy film|a war film scene with smoke and running soldiers|pirates attack a ship in an adventure film|"
    "zombies walk through a foggy town, comedy|a ghost story told at the fire|a toy gun on a carpet|a hunter waits in the reeds|a butcher prepares sausages|"
    "a couple kisses passionately on a pier|a woman in a red dress dances tango|a couple in bed reads the newspaper|lovers meet under a bridge|"
    "a man without a shirt rows a boat|women in bikinis play volleyball|a statue of a nude goddess|a painter draws a nude model, art class|"
    "a newborn on the breast of its mother|children swim in a lake|a girl plays the violin|kids run through a sprinkler|boys play football in a yard|"
    "a schoolgirl reads a book on a bus|a baby sleeps in a cradle|teenagers skate in a park|a family at the beach|"
    "two women marry and their families cry for joy|two men hold hands on a bridge|a rabbi teaches|a mosque at sunset|an African market|"
    "an immigrant opens a restaurant|a drag queen puts on make-up|a blind man crosses a street|a carnival of all nations"
)

# Words of harm in harmless company.
INNOCENT = (
    "the striker kills the ball with his chest|a comedian kills it on stage|a killer joke makes the hall laugh|the batteries are dead|a dead end street in fog|"
    "a dead heat at the horse race|the phone died, a woman looks for a plug|he is dying to see the sea|a die rolls over a table|the engine dies at a crossing|"
    "a player shoots a goal from far away|a film team shoots in the rain|a shot glass on a bar|she shoots clay pigeons at a club|the rocket shoots into the sky|"
    "bamboo shoots in a wok|a headshot of a manager for a website|a drone shot of the coast|a flu shot in a surgery|a bomb of flavours, a chef tastes a sauce|"
    "a bombastic brass concert|the joke bombed, silence in the club|colour bombs at holi|a stink beetle on a leaf|dynamite dance moves in a club|"
    "the firecracker bursts in the sky|an exploding star in a far galaxy|a paint cannon fires colours|the oven explodes with steam, slapstick|"
    "a whip of cream on cocoa|a stabbing pain in the knee, a doctor explains|he stabs a potato with a fork|a needle pierces cloth|a hole punch bites paper|"
    "the slasher of prices, a sale in a shop|a paper cut, a child gets a plaster|the cutter of a film at work|a haircut in a barber's shop|a sushi chef with a long blade|"
    "a fencing master attacks|an attack of laughter|a heart attack, first aid course|the panther attacks a gazelle|a chess attack on the king|"
    "a battle of brass bands|a snowball battle|a rap battle, friendly|a pillow war in pyjamas|a tug of war|a water balloon ambush|war drums in an orchestra|"
    "a toy soldier on a window sill|knight armour polished by a boy|a sword in a stone|a pistol shrimp in a reef|a gunslinger costume at carnival|"
    "a machine gun of typewriter clicks|a tank full of goldfish|a fish tank in a waiting room|a mine of salt, visitors with lamps|a minefield of toys in a child's room|"
    "a hostage of the weather, a ship in harbour|a prison turned into a hotel|handcuffs of a magician|a robber in a children's puppet play|a burglar alarm is fitted|"
    "a pickpocket act in a circus|stealing a kiss on the cheek|stealing the show, a dog on stage|a steal, shoes for five coins|the spy who sneezes, comedy|"
    "poison ivy on a trail sign|a poison dart frog in the rain|a toxic smell from cheese, people laugh|venom is milked from a snake in a laboratory|"
    "a drug store window in the fifties|a doctor writes a prescription|a herb called grass of Parnassus|weeds between stones|pot plants on a balcony|a joint of a door is glued|"
    "crack in a vase, close-up|coke and iron in a furnace|speed skaters on ice|ice crystals grow|a trip to the mountains|the high of a mountain top|mushroom soup in a bowl|"
    "a strip of land between lakes|stripping paint from a chair|strip mall in the evening|bare feet on warm stones|bare branches in fog|a naked brick wall|"
    "naked juice on a shelf|nude shoes in a shop window|a nude colour palette for walls|the body of a violin|body builders oil a wooden boat|a sexy car on a turntable|"
    "hot springs and snow monkeys|a hot dish on a table|wet hair after a swim|a massage chair in an airport|a bed of roses|a one-horse bed and breakfast|"
    "the birds and the bees over a meadow|a cock on a church tower|a pair of tits in a bird house|an ass carries hay|a bitch nurses her puppies|a beaver builds a dam|"
    "a stiff breeze|a long hard climb|a woman lifts her skirt hem over a puddle|a bra is measured by a tailor|bath time for a baby|a nurse washes a newborn|"
    "a mother changes a nappy|a lifeguard in swimwear|ballet girls at the bar|teen volleyball team wins|pupils in uniforms sing|boys jump into a lake|"
    "a slave to fashion, satire about shoes|a master and his dog|the whipping post in an open-air museum|a queen dominates the chess board|tied shoes|tied hands of a rope trick|"
    "black coffee and white milk|a black cat|a white wedding|the yellow peril of bananas, a silly fruit show|Chinese lanterns over a river|an Indian summer|"
    "a Turkish bath in an old print|a Jewish bakery at dawn|a Muslim family breaks the fast|a gay couple cooks|a trans woman reads the news|an African choir|"
    "gypsy jazz in a cellar|Roma musicians at a wedding|refugees learn to cycle|women repair a tractor|a disabled athlete lifts weights|a blind pianist|a homeless man gets soup|"
    "an old couple on a swing|fat raindrops|a fat quarter of cloth|a stupid grin of a camel|an ugly sweater party|a lame excuse, a student and his dog|"
    "losers of a lottery laugh|a freak wave|a monster truck show|a devil's food cake|a hell of a view|burning leaves|a burning question in a quiz|a burned toast|"
    "fire eaters at a fair|a torch relay|flames in a stove|a bonfire at midsummer|a smoke machine on a stage|blood sausages on a grill|blood pressure is measured|"
    "a blood-red sunset|bleeding hearts in a garden, flowers|bleeding ink on paper|gutting a house for renovation|a guts and glory football talk|organ music in a church|"
    "an organ donor card|bones of a dinosaur|a skull mug|a skeleton key|a ghost train|a coffin maker planes wood|a hanging garden|hanging laundry|hangman, the word game|"
    "a jump from a diving tower|a bungee jump with cheering friends|a leap of faith in a fairy tale|a fall from a bicycle, nothing happened|a crash course in French|"
    "a drowning in paperwork, office comedy|suicide doors of a vintage car|a razor on a shaving brush|a barber shaves with a straight razor|pills in a weekly box|"
    "a pharmacist counts tablets|a thin slice of ham|a fasting monk drinks tea|a diet plan with vegetables|a tear-off calendar|a crying toddler gets a kiss|"
    "a hacker's keyboard collection|a life hack with clothes pegs|a hacksaw cuts a pipe|a computer mouse and a real mouse|a worm in an apple|a trojan horse of wood|"
    "a phishing awareness course|fishing at dawn|a bank of the river|a bank robbery scene with toy bricks|laundering shirts|counterfeit detection pen|a fake plant|"
    "a fake moustache|a fake snow machine|a forged iron gate|a smith forges a ladle|a smuggler's cove in summer|a bribe of biscuits for the dog|a racket and a ball"
)

# Plain wishes for a clip.
SUBJECTS = (
    "a red fox|an old sailor|a robot|a golden retriever|a tabby cat|a tall woman in a yellow coat|a young man with a beard|a chef|two friends|a brass band|"
    "a hot-air balloon|a steam train|a sailing boat|a vintage car|a waterfall|a lighthouse|a panda|an astronaut|a ballerina|a group of penguins|"
    "a koala bear|a street musician|a knitting grandmother|a cyclist|a bowl of fruit|a cup of coffee|a snowman|a bonsai tree|a school of fish|a jellyfish|"
    "a dragon|a wizard|a toy train|a paper boat|a glass of water|a field of tulips|a mountain village|a skyscraper|a busy crossing|a wooden bridge|"
    "an elephant|a horse|a flock of birds|a butterfly|a bear|a giraffe|a couple|a child with a kite|a gardener|a painter|a violinist|a drone|a subway train|"
    "a surfer|a skier|a rally car|an old castle|a teddy bear|a squirrel|a raccoon|a corgi|a shark|a turtle|a spaceship|a cartoon hedgehog|a pizza|"
    "a stack of pancakes|a clock|a candle|a typewriter|a person in a suit|a crowd|a farmer|a fisherman|a barista|a postman|a dentist|a mechanic|a clown|"
    "a boxer|a swimmer|a runner|a climber|a knight|a samurai|a cowboy|a pirate|a superhero|a monk|a bride|twins|an alien|a mushroom|a sunflower|a cactus"
)
ACTIONS = (
    "runs along a path|walks slowly|dances|plays the drums|eats an apple|drinks tea|sleeps|jumps over a puddle|spins round|looks at the camera|smiles|"
    "reads a newspaper|opens a door|climbs a hill|swims|flies over the clouds|turns into smoke|melts|grows|shakes|glows|floats in space|rides a bicycle|"
    "cooks soup|paints a wall|plants a tree|washes the dishes|types on a laptop|waits for a bus|waves|throws a ball|catches a fish|sits on a bench|"
    "stands in the wind|crosses a street|blows bubbles|plays chess|takes a photo|pours milk|cuts bread|chops vegetables|hammers a nail|shoots a basket|"
    "fights with a pillow|hugs a friend|kisses a forehead|laughs out loud|cries for joy|bows|sings|conducts an orchestra|explodes into confetti|"
    "falls into the snow|rolls down a slope|hides behind a curtain|stretches|yawns|is reflected in a window|is seen from above|drives through a tunnel|"
    "is covered with snow|moves in the breeze|shines in the sun|drifts down a river|makes a turn|applies make-up|takes off a hat|tries on shoes|puts on a coat|"
    "ties a rope|lights a fire|burns slowly|drips with water|breaks a plate|strikes a match|digs a hole|lifts weights|does push-ups|skips a rope"
)
PLACES = (
    "in a forest|on a beach|in a city at night|in the desert|under water|on the moon|in a kitchen|in a library|at a station|in a garden|on a rooftop|in Paris|"
    "in Tokyo|in an art gallery|on a mountain|in the snow|in a meadow|in a café|in a castle|in a museum|on a stage|in a gym|in a swimming pool|on a farm|"
    "in a laboratory|in a hospital|in a church|on a bridge|in a cave|at a market|in an office|in a bedroom|in a bathroom|in a classroom|in a stadium|"
    "beside a river|in a jungle|on a highway|in outer space|in a tunnel|at a harbour|in an abandoned factory|in a shop|on a glacier|at the zoo|"
    "in front of a fireplace|on a balcony|in a lift|in a crowd|in an alley"
)
STYLES = (
    "|||||, watercolour|, cinematic|, 4k, highly detailed|, cyberpunk|, in slow motion|, timelapse|, black and white|, pixel art|, seen by a drone|, close-up|, "
    "the camera pans left|, zoom in|, golden hour|, misty|, stop motion|, surrealism|, ukiyo-e|, oil painting|, tilt up|, static shot|, racking focus|, "
    "vintage film|, soft colours|, in the style of a children's book|, with thunder|, wide angle|, photo-realistic|, animated"
)
# Plain wishes for a text or for advice.
TASKS = (
    "write a poem about {}|write an email about {}|explain {} to a beginner|how do I learn about {}|summarise the history of {}|give me ideas for {}|"
    "what is {}|who invented {}|write a short story about {}|make a plan for {}|how much does {} cost|list ten facts about {}|translate a text about {}|"
    "a video that teaches {}|compare two kinds of {}|write an advertisement for {}|how can I improve {}|what should I know about {}|"
    "tell me a joke about {}|what do experts say about {}|how to repair {}|how to choose {}|write a speech about {}|write a product review of {}|"
    "write code for {}|give me a step-by-step guide to {}|how can I get better at {}|create a social media post about {}|describe {} in detail|"
    "is {} safe|why do people like {}|a narrator tells about {}|write a blog post that praises {}|how to make money with {}|how to explain {} to my boss"
)
TOPICS = (
    "gardening|sourdough bread|bicycles|the moon landing|renewable energy|photosynthesis|the French revolution|chess openings|jazz|tax forms|a job interview|"
    "a birthday party|the stock market|home insurance|wifi routers|a washing machine|old coins|house plants|dog training|yoga|marathon training|"
    "sleep|vitamins|headaches|first aid|swimming lessons|driving lessons|train travel|camping|knitting|pottery|photography|film cameras|violin practice|"
    "a wedding speech|a garden party|a school play|spreadsheets|password managers|backup disks|electric cars|solar panels|a vegetable soup|cheese|coffee|"
    "tea ceremonies|volcanoes|earthquakes|whales|bees|bird migration|the Roman empire|Egyptian temples|Viking ships|the printing press|steam engines|"
    "quantum physics|algebra|statistics|a balanced diet|time management|public speaking|friendship|a first date|long-distance love|raising twins|"
    "a moving company|renting a flat|a recipe book|medicine labels|customs forms|passport renewal|voting by mail|local politics|a peace treaty|"
    "immigration law|religious holidays|women in science|the olympic games|wheelchair sports|sign language|folk music|street food|a lost wallet|"
    "lock maintenance|knife sharpening|fireworks safety|model rockets|chemistry sets|hunting licences|firearms law|a film about spies|crime novels|"
    "escape rooms|magic tricks|video games|board games|card games|superhero films|horror films|medieval battles|fencing|archery|boxing training|judo|"
    "a bank account|credit cards|savings|debt advice|antivirus software|network cables|email newsletters|online shops|charity runs|a neighbour's noise"
)

# Words of plain and careful sentences that only `choose` has: every fourth.
def halves(text):
    words = text.split("|")
    return {"fit": [w for n, w in enumerate(words) if n % 4 != 3], "choose": words[3::4]}


def read_wishes():
    category, wishes = None, []
    for line in (HERE / "wishes.txt").read_text().splitlines():
        if line.startswith("["):
            category = line.strip("[]")
        elif line and line[0] != "#":
            form, violating, harmless = (part.strip() for part in line.split(" | "))
            wishes.append((category, form, violating, harmless))
    return wishes


def filled(text, twin, draw):
    """Both with the same words in their slots, but two people of one sentence are two."""
    for slot, words in SLOTS.items():
        drawn = draw.sample(words.split("|"), 3)
        for word in drawn:
            mark = "{" + slot + "}"
            text, twin = text.replace(mark, word, 1), twin.replace(mark, word, 1)
    assert "{" not in text + twin, text + twin
    return text, twin


def main(seed):
    draw = random.Random(seed)
    lines = []
    wishes = read_wishes()
    numbered = {}
    for category, form, violating, harmless in wishes:
        # Every fourth kind of wish of a category chooses.
        number = numbered[category] = numbered.get(category, 0) + 1
        part = "choose" if number % 4 == 0 else "fit"
        frames = FRAMES[form].split("|")
        for frame in draw.sample(frames, min(OF_A_WISH, len(frames))):
            one, twin = filled(violating, harmless, draw)
            if form in "hw" and draw.random() < 1 / 3:
                frame += draw.choice(TAILS.split("|"))
            lines += [(part, category, "wish", frame.replace("{}", one)), (part, "harmless", "twin", frame.replace("{}", twin))]
    pairs = (HERE.parents[1] / "configs/policy/pairs.tsv").read_text().splitlines()
    # Five lines fill one template; single ones stand alone, and go the same way.
    for number, line in enumerate(line for line in pairs if line and line[0] != "#"):
        category, violating, harmless = line.split("\t")
        part = "choose" if number // 5 % 4 == 3 else "fit"
        lines += [(part, category, "wish", violating), (part, "harmless", "twin", harmless)]
    for part in ("fit", "choose"):
        of = lambda text: halves(text)[part]
        for subject in of(CARE):
            lines += [(part, "harmless", "care", frame.format(subject)) for frame in draw.sample(of(CARE_FRAMES), min(CARE_OF_A_SUBJECT, len(of(CARE_FRAMES))))]
        lines += [(part, "harmless", "care", whole) for whole in of(CARE_WHOLE)]
        for whole in of(INNOCENT):
            framed = draw.sample([frame for frame in FRAMES["c"].split("|") if frame != "{}"], 2)
            lines += [(part, "harmless", "innocent", text) for text in (whole, *(frame.replace("{}", whole) for frame in framed))]
        for number in range(PLAIN * (3 if part == "fit" else 2) // 5):
            if number % 3 == 2:
                plain = draw.choice(of(TASKS)).format(draw.choice(of(TOPICS)))
                plain += draw.choice(of(TAILS)) if draw.random() < 1 / 3 else ""
            else:
                subject, action, place = (draw.choice(of(words)) for words in (SUBJECTS, ACTIONS, PLACES))
                plain = draw.choice([f"{subject} {action} {place}", f"{subject} {action}", f"{subject} {place}", f"{subject} and {draw.choice(of(SUBJECTS))} {place}"]) + draw.choice(of(STYLES))
            lines.append((part, "harmless", "plain", plain))
    seen = set()
    for line in lines:
        sentence = re.sub(r"\s+", " ", line[3]).strip()
        if sentence.lower() not in seen:
            seen.add(sentence.lower())
            print("\t".join((*line[:3], sentence)))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
