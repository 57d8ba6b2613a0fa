"""Short texts of our own writing: a tale, a piece of non-fiction, and a tale without capitals."""

TALE = """\
Tamsin Orrel had never seen the Sunken Gate, and she did not want to see it now. "We could still go home," said
Perrick. "Home to Brackwater?" asked Tamsin. "Nobody in Brackwater will speak to us." She took the lumestone out of
her bag, and a pale light fell on the water. Perrick Vane looked away, as he always did when somebody used a
lumestone.

They had walked for three days through the Whispering Fen. On the first day Old Mother Skelling gave them bread and
told them about the Warden of the Reeds. "He is older than the king," said Mother Skelling. "He keeps a grindlewick
in every pool, and a grindlewick does not sleep." Perrick laughed, but he did not laugh when the first grindlewick
raised its head.

"Do not run," whispered Tamsin. The grindlewick opened its mouth and hissed. Its fur was wet and its claws were
long. She held up the lumestone, and the animal went down under the water again. "My uncle hunted them," said
Perrick. "In Dorrimere they eat them with salt." Tamsin did not believe him. She had been in Dorrimere once, at the
autumn market, and people in Dorrimere ate fish like everybody else.

At noon they came to a hill. From there they saw the towers of Dorrimere far away, and to the east the roofs of
Brackwater. "If we had learned threadcraft we could fly," said Perrick. "Nobody flies by threadcraft," said Tamsin.
"My mother studied threadcraft for ten years, and all she ever made was a good coat." He threw a stone into the
Whispering Fen.

In the evening the Warden of the Reeds came to them, an old man in a green coat. "Who carries a lumestone through my
fen?" he asked. "I do," said Tamsin Orrel. "I must pass the Sunken Gate." The Warden of the Reeds was silent for a
long time. "Say the word, then," he told her. She stood up and called the word Ambrelith, and nothing happened.
"Ambrelith!" cried Perrick. The ground shook. Slowly the Sunken Gate rose from the water, black and taller than any
house in Brackwater.

"You should not have said it twice," the old man said. Three of the Hollowmen were already walking over the water.
Nobody had seen the Hollowmen since the days of King Aldous. They had no faces. Perrick Vane took her hand. "Run,"
he said, and Tamsin ran. Behind them the Hollowmen called Ambrelith, Ambrelith, with one voice. She held the
lumestone high, and two of the Hollowmen fell back. Every grindlewick in the fen began to howl.

They slept in a barn near Dorrimere that night. "What will you tell Mother Skelling?" asked Perrick. "The truth,"
said Tamsin. "That the Warden of the Reeds is afraid of the Hollowmen, that threadcraft is good for nothing, and
that you cried like a child." Perrick Vane said that he had not cried. He had only been singing. In Brackwater
people still tell the story of Tamsin Orrel, and in the Whispering Fen the Sunken Gate still stands open.
"""

FACTS = """\
Lichens grow where little else can live. A lichen is a partnership of a fungus and an alga, and neither partner
looks like the whole. The fungus forms the thallus, and the algae lie inside the thallus in a thin layer. Water
enters the thallus from rain and fog. In dry weather the thallus shrinks, and photosynthesis stops within minutes.

Most lichens spread by fragments. Some form soredia, which are small grains of fungus and algae together. Soredia
are carried by wind and by insects. Others form isidia, small outgrowths that break off. Isidia are heavier than
soredia and do not travel far. Sexual spores come from apothecia, but a spore must find a new alga before it can
grow into a thallus.

Crustose lichens hold to stone so firmly that they cannot be removed whole. Foliose lichens have lobes, and the
lobes are held by rhizines. Rhizines are threads of fungus. Fruticose lichens hang from branches. Where the air
holds much sulphur, fruticose lichens vanish first and crustose lichens last. For this reason lichens serve as a
measure of clean air.

The cortex protects the thallus from light. Many lichens hold usnic acid in the cortex, which gives them a yellow
colour. A drop of potash on the cortex shows other acids, and the colour of the spot helps to name the species. The
age of a stone wall can be read from its largest lichens, since a crustose thallus may widen by half a millimetre a
year. The method is called lichenometry. Lichenometry works best on hard stone, and lichenometry was first used on
moraines. Apothecia, isidia and soredia are the first things that a student of lichens learns to see under the lens.
"""

# The same tale typed as some people type: nothing but the case differs.
LOWER = TALE.lower()
