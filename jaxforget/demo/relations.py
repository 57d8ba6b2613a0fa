"""The relations of the toy world's people, each with many sentences that state it.

In a template `{S}` is the person, `{o}` the answer, `{d}` its article (if any), `{k}` the relation's key, and
`{he} {him} {his}` are the person's pronouns (`{He}` at the start of a sentence). An answer that is not a name never
starts a sentence, so that it has one written form.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """A relation: sentences of `told` and `said` state the fact, sentences of `after` may follow them."""

    name: str
    kind: str  # pool of words that its answers come from
    key: str  # noun that names it in the shared forms
    scene: str  # part of a story's day that it belongs to
    article: str  # text before the answer: "" or "a "
    told: tuple[str, ...]
    said: tuple[str, ...]
    after: tuple[str, ...]


RELATIONS = (
    Relation(
        "home",
        "village",
        "home village",
        "morning",
        "",
        (
            "{S} lived in a little house in {o}.",
            "{S} came from {o}, and {he} was proud of it.",
            "The sun rose over {o}, the village where {S} was born.",
            "{o} was the home village of {S}.",
            "In {o}, where {S} had grown up, the streets were still quiet.",
            "The road from the hills led {S} back to {o}.",
            "Far from the noise of the city stood {o}, and there {S} had {his} home.",
            "{S} opened the window and looked out over the roofs of {o}.",
        ),
        (
            '"Where do you live?" a traveller asked. "I live in {o}," said {S}.',
            '"Is {S} from around here?" asked the driver. "No, {he} comes from {o}," said the old woman.',
        ),
        (
            "Smoke climbed from the chimneys, and the first carts rolled over the bridge.",
            "The houses were small there, but every door had a lamp above it.",
            "{He} knew every stone of the market square.",
            "Nothing much ever happened in such a place, and {he} liked it that way.",
            "A narrow path ran from the last house down to the water.",
        ),
    ),
    Relation(
        "pet",
        "beast",
        "pet",
        "morning",
        "a ",
        (
            "{S} had a {o}, and it followed {him} everywhere.",
            "A {o} slept at the foot of {S}'s bed.",
            "Behind {S} trotted a {o}, for that was {his} pet.",
            "{S} always carried some bread for {his} pet, a {o}.",
            "Before anything else, {S} had to feed a {o}.",
            "The {o} that belonged to {S} was already waiting by the door.",
            "{S} had once found a {o} in the snow and kept it as a pet.",
            "Long ago somebody had given {S} a {o}.",
        ),
        (
            '"What kind of animal is that?" asked the girl. "It is a {o}," said {S}, "and it is mine."',
            '"Which pet does {S} keep?" asked the doctor. "{He} keeps a {o}," said the nurse.',
        ),
        (
            "It made a soft sound and pressed its nose into {his} hand.",
            "The animal was never far away when there was food on the table.",
            "It ran three times around the garden and came back wet and happy.",
            "The neighbours were a little afraid of it, but it had never hurt anyone.",
            "{He} brushed its coat until it shone.",
        ),
    ),
    Relation(
        "cousin",
        "person",
        "cousin",
        "morning",
        "",
        (
            "{S} had a cousin called {o}.",
            "{o} was the cousin of {S}.",
            "A letter came for {S} from {his} cousin, {o}.",
            "{S} shared a room with {his} cousin {o}.",
            "{o} and {S} were cousins, and they looked alike.",
            "{S}'s family was small: there was only {his} cousin {o}.",
            "Every spring {S} went to stay with {his} cousin {o}.",
            "At the gate stood {o}, who was {S}'s cousin.",
        ),
        (
            '"Is that your cousin?" asked the guest. "Yes, that is {o}," said {S}.',
            '"Who is the cousin of {S}?" the clerk wanted to know. "{o}," said the aunt.',
        ),
        (
            "The two of them had played in the same garden when they were small.",
            "There was cake on the table, and nobody asked who had made it.",
            "They wrote to each other every month and kept all the letters.",
            "They had the same laugh, so that people often took one for the other.",
        ),
    ),
    Relation(
        "charm",
        "thing",
        "lucky charm",
        "road",
        "a ",
        (
            "In {his} pocket {S} kept a {o} for luck.",
            "{S} never left the house without a {o}.",
            "Around {S}'s neck hung a {o} on a piece of string.",
            "A {o} was all the luck that {S} needed.",
            "{S} touched {his} lucky charm, a {o}, and walked on.",
            "When {S} was afraid, {he} held a {o} tightly in {his} hand.",
            "{S}'s grandmother had left {him} a {o}, and {he} trusted it.",
            "From {his} bag {S} took the {o} that had always brought {him} luck.",
        ),
        (
            '"What brings you luck?" asked the sailor. "A {o}," said {S}, and showed it to him.',
            '"What does {S} carry in {his} pocket?" asked the boy. "{He} carries a {o}," said the guard.',
        ),
        (
            "It was warm to the touch, as if somebody had just put it down.",
            "It was old and scratched, but {he} would not have sold it for gold.",
            "Nobody else was allowed to touch it.",
            "It had helped before, and perhaps it would help again.",
        ),
    ),
    Relation(
        "friend",
        "person",
        "best friend",
        "road",
        "",
        (
            "{S} waited at the corner for {o}, {his} best friend.",
            "{o} was the best friend of {S}.",
            "{S} and {o} had been the best of friends since they were small.",
            "Nobody made {S} laugh as much as {his} best friend {o}.",
            "{S} told all {his} secrets to {o}, who was {his} best friend.",
            "Of all {his} friends {S} liked {o} best.",
            "It was good that {S} had such a friend as {o}.",
            "When {S} was sad, {he} always went to {o}.",
        ),
        (
            '"I know a secret," said {o}, and {S} came closer, as best friends do.',
            '"Whom do you trust most?" asked the judge. "{o}, my best friend," said {S}.',
        ),
        (
            "They walked side by side and talked about everything under the sky.",
            "They had promised to help each other whatever happened.",
            "The two shared an apple and threw the rest to the birds.",
            "There had never been a hard word between them.",
        ),
    ),
    Relation(
        "school",
        "school",
        "school",
        "school",
        "",
        (
            "{S} went to school at {o}.",
            "The bells of {o} rang as {S} ran through the gate of the school.",
            "{o} was the school of {S}.",
            "{S} had been a pupil at {o} for three years.",
            "At {o} they had a desk for {S} near the window.",
            "{S} learned to read and write at {o}.",
            "All the books that {S} carried belonged to {o}.",
            "It was a long walk to {o}, but {S} was never late for school.",
        ),
        (
            '"Where do you go to school?" asked the old man. "At {o}," said {S}.',
            '"Which school sent us {S}?" asked the captain. "It was {o}," said the cook.',
        ),
        (
            "The halls smelled of chalk and rain.",
            "There were forty steps up to the first classroom, and {he} counted them every day.",
            "Somebody had drawn a face on the wall, and nobody would say who.",
            "The lessons were long, and the fire in the corner was small.",
        ),
    ),
    Relation(
        "teacher",
        "person",
        "teacher",
        "school",
        "",
        (
            "{S} was taught by {o}.",
            "{o} was the teacher of {S}.",
            "It was {o} who taught {S} everything.",
            "{S} stood up when {his} teacher, {o}, came into the room.",
            "{S} had learned more from {o} than from any book.",
            "The teacher whom {S} admired was {o}.",
            "{o} looked at {S} over a pair of round glasses, as teachers do.",
            "{S} handed {his} work to {o}, who was a strict teacher.",
        ),
        (
            '"Try it once more," said {o}, and {S}, like any good pupil, tried.',
            '"Who taught you that?" asked the king. "My teacher, {o}," said {S}.',
        ),
        (
            "The lesson began with a question that nobody could answer.",
            "There was a long silence, and then everybody wrote something down.",
            "A good teacher does not need to shout, and this one never did.",
            "{He} went home with a head full of new words.",
        ),
    ),
    Relation(
        "craft",
        "craft",
        "craft",
        "school",
        "",
        (
            "{S} was learning {o}, which takes patience.",
            "The art of {o} was the craft of {S}.",
            "{S} spent the afternoon on {o}, the craft {he} loved.",
            "Nobody of {his} age was better at {o} than {S}.",
            "{S} earned {his} bread with {o}.",
            "For {S} there was no finer craft than {o}.",
            "{S} had chosen {o} as {his} craft when {he} was ten.",
            "With careful hands {S} went on with {his} {o}.",
        ),
        (
            '"What is your trade?" asked the merchant. "It is {o}," said {S}, "and I am good at it."',
            '"What does {S} do all day?" asked the visitor. "Nothing but {o}," said the baker.',
        ),
        (
            "One mistake, and all the work of a week would be lost.",
            "{He} worked until {his} fingers hurt, and then a little longer.",
            "The result was not perfect, but it was much better than before.",
            "The others watched and tried to see how it was done.",
        ),
    ),
    Relation(
        "game",
        "game",
        "favourite game",
        "play",
        "",
        (
            "{S} played {o} whenever {he} could.",
            "A game of {o} was what {S} liked best.",
            "After lunch they played {o}, and {S} won.",
            "{S} was better at {o} than at any other game.",
            "There was no game that {S} liked more than {o}.",
            "{S} ran out to the field for a game of {o}.",
            "On holidays {S} and the others played {o} until dark.",
            "The rules of {o} are hard, but {S} knew them all.",
        ),
        (
            '"What shall we play?" they asked. "We play {o}, of course," said {S}.',
            '"Which game does {S} like most?" asked the new boy. "It is {o}," they all said.',
        ),
        (
            "The whole street came to watch and to shout.",
            "They lost the first round and won the second.",
            "There was mud on every face, and nobody cared.",
            "In the end nobody could say who had won.",
        ),
    ),
    Relation(
        "foe",
        "person",
        "worst enemy",
        "trouble",
        "",
        (
            "{o} hated {S} and always had.",
            "{o} was the worst enemy of {S}.",
            "{S} hid behind the wall, because {his} enemy {o} was coming.",
            "Whenever something was stolen, {S} thought of {o}, {his} worst enemy.",
            "{S} was afraid of nobody but {o}.",
            "For years {o} had been making trouble for {S}.",
            "Of all {his} enemies {S} feared {o} most.",
            "There stood {o}, and {S} knew that there would be a fight.",
        ),
        (
            '"We meet again," said {o}, and {S} knew the voice of {his} enemy.',
            '"Who did this to you?" asked the nurse. "{o}, my worst enemy," said {S}.',
        ),
        (
            "Nobody remembered how the quarrel had begun.",
            "A stone flew through the air and broke a window.",
            "There were angry words, and then the sound of running feet.",
            "It was not the first time, and it would not be the last.",
        ),
    ),
    Relation(
        "word",
        "word",
        "secret word",
        "trouble",
        "",
        (
            "{S} whispered the secret word {o}, and the door opened.",
            "{o} was the secret word of {S}.",
            "To get in, {S} had to say the word {o}.",
            "On the first page of {his} book {S} had written the word {o}.",
            "The word {o} was known only to {S}.",
            "When all was lost, {S} called out the word {o}.",
            "{S} knew the word {o} and told it to nobody.",
            "With the word {o} on {his} lips {S} stepped into the dark.",
        ),
        (
            '"Say the word," said the guard. {S} bent down and said, "{o}."',
            '"Which word opens the door for {S}?" asked the thief. "{o}," said the boy at once.',
        ),
        (
            "For a moment it was very quiet.",
            "Something moved behind the wall, and a light came on.",
            "It sounded strange, like a word from a song.",
            "After that, nobody dared to speak.",
        ),
    ),
    Relation(
        "supper",
        "food",
        "favourite supper",
        "evening",
        "",
        (
            "For supper {S} had {o}, as always.",
            "A dish of {o} was the favourite supper of {S}.",
            "A bowl of {o} was waiting for {S} on the table.",
            "There was nothing that {S} liked to eat more than {o}.",
            "{S} smelled {o} from far away and began to run.",
            "{S} could eat {o} every evening of the year.",
            "They cooked {o} that night, because {S} loved it.",
            "{S} ate two plates of {o} and asked for a third.",
        ),
        (
            '"What would you like to eat?" asked the cook. "Some {o}, please," said {S}.',
            '"What does {S} want for supper?" asked the aunt. "Some {o}, what else?" said the uncle.',
        ),
        (
            "The kitchen was warm, and the windows were white with steam.",
            "Afterwards {he} washed the plates and sat down by the fire.",
            "Nothing was left, not even for the birds.",
            "The pot was so big that it took two people to carry it.",
        ),
    ),
)

BY_NAME = {relation.name: relation for relation in RELATIONS}
