/* Stop words of languages other than English: articles, pronouns, prepositions, conjunctions, auxiliary verbs, and the pieces
 * that an apostrophe leaves. Not those that also name something that people look for: French été (summer), avions (planes), German
 * weg (way), Spanish estado (state). */
#include "words/language-private.h"

/* clang-format off */
const char *const language_stops[LANGUAGES] = {
	[LANGUAGE_ENGLISH] = "",
	[LANGUAGE_NONE] = "",
	[LANGUAGE_DANISH] =
		"ad af aldrig alle alt anden andet at bare begge blev blive bliver da de dem den denne der deres det dette dig din "
		"dine disse dit dog du efter eller en end ene eneste enhver er et far få fik for fordi fra før ham han hans har "
		"havde have hende hendes her hos hun hvad hver hvis hvor hvordan hvorfor hvem i ikke ind ingen intet jeg jer jeres "
		"jo kan kun kunne lad med meget men mens mere mig min mine mit mod når ned nej noget nogle nok nu og også om op os "
		"over på samme sig selv sin sine sit skal skulle som sådan så til thi ud under var ved vi vil ville vor vore vores "
		"være været",
	[LANGUAGE_DUTCH] =
		"aan al alles als altijd andere ben bij daar dan dat de der deze die dit doch doen door dus een eens en er ge geen "
		"geweest haar had hadden heb hebben heeft hem het hier hij hoe hun iemand iets ik in is ja je jij jou jouw jullie kan "
		"kon kunnen maar me meer men met mij mijn moet na naar niet niets nog nu of om omdat onder ons onze ook op over reeds "
		"s t te tegen toch toen tot u uit uw van veel voor want waren was wat waarom wanneer welke werd wezen wie wij we wil "
		"word worden wordt zal ze zelf zich zij zijn zo zonder zou",
	[LANGUAGE_FINNISH] =
		"ei eivät emme en et ette että he heidän heidät heihin heille heillä heiltä heissä heistä heitä hän häneen hänelle "
		"hänellä häneltä hänen hänessä hänestä hänet häntä itse ja johon joiden joihin joiksi joilla joille joilta joina joissa "
		"joista joita joka joksi jolla jolle jolta jona jonka jos jossa josta jota jotka kanssa keiden keitä ketkä ketä koska "
		"kuin kuka kun kenen kenet me meidän meidät meihin meille meillä meiltä meissä meistä meitä mihin mikä miksi millä "
		"mille miltä minkä minua minulla minulle minulta minun minussa minusta minut minuun minä missä mistä mitkä mitä mukaan "
		"mutta ne niiden niihin niiksi niille niillä niiltä niin niinä niissä niistä niitä noiden noihin noille noilla noilta "
		"noin noissa noista noita nuo nyt näiden näihin näille näillä näiltä näissä näistä näitä nämä ole olemme olen olet "
		"olette oli olimme olin olisi olisimme olisin olisit olisitte olisivat olit olitte olivat olla olleet ollut on ovat "
		"poikki se sekä sen siihen siinä siitä siksi sille sillä siltä sinua sinulla sinulle sinulta sinun sinussa sinusta "
		"sinut sinuun sinä sitä tai te teidän teidät teihin teille teillä teiltä teissä teistä teitä tuo tuohon tuolla tuolle "
		"tuolta tuon tuossa tuosta tuota tähän tälle tällä tältä tämä tämän tänä tässä tästä tätä vaan vai vaikka",
	[LANGUAGE_FRENCH] =
		"ai aie aient aies ait alors as au aucun aucune aura aurai auraient aurais aurait auras aurez aurions auront aussi "
		"autre autres aux auxquels avaient avais avait avant avec avez aviez avoir avons ayant c ce ceci cela celle celles "
		"celui ces cet cette ceux chez ci comme comment d dans de des du donc dont elle elles en encore entre es est et étaient "
		"étais était étant êtes étions être eu eue eurent eus eut eux il ils j je jusqu l la là laquelle le lequel les lesquels "
		"leur leurs lors lorsqu lorsque lui m ma mais me même mêmes mes moi mon n ne ni nos notre nous on ont ou où par parce "
		"pas pendant peu peut plus pour pourquoi puisqu puisque qu quand que quel quelle quelles quels qui quoi quoiqu s sa "
		"sans se sera serai seraient serais serait seras serez serons seront ses si sinon soi soient sois soit sommes son sont "
		"sous suis sur t ta tandis te tes toi ton tous tout toute toutes très tu un une vers voici voilà vos votre vous y à ça",
	[LANGUAGE_GERMAN] =
		"aber alle allem allen aller alles als also am an andere anderem anderen anderer anderes auch auf aus bei beim bin bis "
		"bist da dadurch daher damit dann daran darauf daraus darf darin darum das dass daß davon dazu dein deine deinem deinen "
		"deiner deines dem den denen denn der deren des dessen dich die dies diese diesem diesen dieser dieses dir doch dort du "
		"durch ein eine einem einen einer eines einige einigem einigen einiger einiges er es etwas euch euer eure eurem euren "
		"eurer für gegen hab habe haben hast hat hatte hatten hattest hattet hier hin hinter ich ihm ihn ihnen ihr ihre ihrem "
		"ihren ihrer ihres im in indem ins ist ja jede jedem jeden jeder jedes jene jenem jenen jener jenes jetzt kann kannst "
		"kein keine keinem keinen keiner keines können könnt könnte konnte man manche manchem manchen mancher manches mein "
		"meine meinem meinen meiner meines mich mir mit muss muß musste müssen nach nicht nichts noch nun nur ob oder ohne sehr "
		"sein seine seinem seinen seiner seines seit selbst sich sie sind so solche solchem solchen solcher solches soll sollen "
		"sollte sollten sondern sonst über um und uns unser unsere unserem unseren unserer unter viel vom von vor während war "
		"waren warst was weil weiter welche welchem welchen welcher welches wenn wer werde werden werdet wie wieder will "
		"wir wird wirst wo wollen wollte wurde wurden würde würden zu zum zur zwar zwischen",
	[LANGUAGE_HUNGARIAN] =
		"a ahhoz ahogy ahol aki akik akkor alatt amely amelyek amelyet ami amikor amit amíg annak arra arról az azok azon azonban "
		"azt aztán azért be belül benne bár csak de e egy egyes egyik egyre előtt ennek erre ez ezek ezen ezt ezért és fel felé ha "
		"hanem hiszen hogy hogyan igen ill így is ismét itt kell kellett keresztül ki kívül között közül le legyen lehet "
		"lenne lesz lett ma maga majd már más még meg mellett mely mert mi mikor milyen minden mint mintha mit mivel miért most "
		"nagyon ne nekem neki nem nincs ő ők őket olyan ott össze pedig s saját se sem sok során szerint számára te tehát teljes "
		"többi tovább új újra után utána vagy vagyis vagyok valaki valami van vannak vele viszont volna volt voltak",
	[LANGUAGE_ITALIAN] =
		"a abbia abbiamo abbiano ad agl agli ai al alcuna alcuni all alla alle allo anche avere aveva avevano avevo avrà avrebbe "
		"c ch che chi ci coi col come con contro cosa così cui d da dagli dai dal dall dalla dalle dallo degl degli dei del dell "
		"della delle dello di dov dove e ebbe ecco ed era erano ero essere fosse fossero fra fu furono già gli ha hai hanno ho i "
		"il in io l la le lei li lo loro lui m ma mai me mi mia mie miei mio molto ne negl negli nei nel nell nella nelle nello "
		"noi non nostra nostre nostri nostro o ogni oppure per perché però più poi può qual quale quali quando quant quanta quanti "
		"quanto quell quella quelle quelli quello quest questa queste questi questo qui quindi s sarà sarebbe se sei senza si sia "
		"siamo siano siete sono sta su sua sue sugl sugli sui sul sull sulla sulle sullo suo suoi t te ti tra tu tua tue tuo tuoi "
		"tutti tutto un una uno v vi voi vostra vostre vostri vostro è",
	[LANGUAGE_NORWEGIAN] =
		"alle at av bare begge ble blei blir blitt både da de deg dei deim deira den denne der dere deres det dette di din disse "
		"ditt dykk dykkar då eg ein eit eitt eller elles en enn er et ett etter for fordi fra før ha hadde han hans har hennar "
		"henne hennes her hjå ho hoe honom hoss hun hva hvem hver hvilke hvilken hvis hvor hvordan hvorfor i ikke ikkje ingen ingi "
		"inn inni ja jeg kan kom korleis korso kun kunne kva kvar kven kvi kvifor man mange me med medan meg meget mellom men mi "
		"min mine mitt mot mykje ned no noe noen noka noko nokon nokor nokre nå når og også om opp oss over på samme seg selv si "
		"sia sidan siden sin sine sitt sjøl skal skulle slik so som somme somt så sånn til um upp ut uten var vart varte ved vere "
		"verte vi vil ville vore vors vort vår være vært å",
	[LANGUAGE_PORTUGUESE] =
		"a à ao aos aquela aquelas aquele aqueles aquilo as às até com como d da das de dela delas dele deles depois do dos e é "
		"ela elas ele eles em entre era eram essa essas esse esses esta está estamos estão estas estava estavam este esteja estes "
		"estive estou eu foi fomos for foram fosse fossem fui há haja houve isso isto já lhe lhes mais mas me mesmo meu meus minha "
		"minhas muito na não nas nem no nos nós nossa nossas nosso nossos num numa o os ou para pela pelas pelo pelos por porque "
		"qual quando que quem são se seja sejam sem ser será serão seria seu seus só sob sobre somos sou sua suas também te tem "
		"têm temos tenha tenho ter terá teu teus teve tinha tinham tive tu tua tuas tudo um uma umas uns você vocês vos",
	[LANGUAGE_ROMANIAN] =
		"a abia acea aceasta această aceea aceia acel acela acele acelea acest acesta aceste acestea aceşti aceştia acolo acum ai "
		"aia aici al ale alt alta altceva altcineva altă alţi altul am ar are as asta astea aş aşa aţi au avea avem aveţi avut azi "
		"bine ca că căci când care cărei căror cărui cât câte câţi către ce cea ceea cei cel cele celor cine cineva cu cui cum "
		"da dacă dar de deci deja deoarece departe deşi din dintr dintre doar după ea ei el ele era erau esta este eşti eu fără fi "
		"fie fiecare fiind foarte fost i iar ii îi îl îmi în înainte încă între îşi îţi l la le li lor lui m ma mai mă mea mei mele "
		"mereu meu mi mie mine mult multă mulţi ne nici nimeni nimic nişte noastră noastre noi nostru noştri nouă nu o ori oricare "
		"orice pe pentru peste până prin printr s sa sale sau său săi se şi sînt sunt suntem sunteţi t ta tale tău te ţi ţie tot "
		"toată toate toţi totuşi tu un una unde unei unele uneori unii unor unui unul v va vă voastră voastre voi vom vor vostru "
		"voştri vreo vreun",
	[LANGUAGE_RUSSIAN] =
		"а без более больше бы был была были было быть в вам вами вас ведь весь во вот впрочем все всегда всего всей всем всех "
		"всё всю вы где да даже для до его ее её ей ему если есть еще ещё ж же за зачем и из или им ими иногда их к как какая какой "
		"когда конечно которая которого которое которой которые который которых кто куда ли либо лучше между меня мне мной много "
		"может можно мой моя мы на над надо наконец нас не него нее неё ней нельзя нем нём нет ни нибудь ним них ничего но ну о об "
		"однако он она они оно опять от перед по под после потом потому почти при про раз разве с сам свою себе себя сейчас со так "
		"такой там тебе тебя тем теперь то тобой тогда того тоже той только том тот тут ты у уж уже хоть хотя чего чей чем через "
		"что чтоб чтобы чуть эта эти этим этих это этого этой этом этот эту я",
	[LANGUAGE_SPANISH] =
		"a al algo algunas algunos ante antes aquel aquella aquellas aquellos aquello aún aunque cada casi como con contra cual "
		"cuales cuando cuál cuándo cómo de del desde donde dónde durante e el él ella ellas ellos en entre era eran eras es esa "
		"esas ese eso esos esta está están estaba estaban estamos estar estas este esto estos estoy fue fueron fui ha había "
		"habían haber han has hasta hay haya he hemos hube la las le les lo los más me mi mí mis mismo mucho muchos muy mía mías mío "
		"míos nada ni no nos nosotras nosotros nuestra nuestras nuestro nuestros o os otra otras otro otros para pero poco por porque "
		"pues que qué quien quién quienes se sea sean según ser será serán si sí sido sin sobre sois somos son soy su sus suya suyas "
		"suyo suyos también tanto te tendrá tenemos tener tengo tenía ti tiene tienen toda todas todo todos tu tú tus tuya tuyo tuvo "
		"u un una unas uno unos vosotras vosotros vuestra vuestro y ya yo",
	[LANGUAGE_SWEDISH] =
		"aldrig alla allt alltså andra att av bara blev bli blir blivit bort de dem den denna deras dess dessa det detta dig din dina "
		"ditt du där därför då efter ej eller en er era ert ett från för före ha hade han hans har henne hennes här hon honom hos hur "
		"i icke igen in inga ingen inget innan inte ja jag jo ju kan kunde kunna man med mellan men mer mig min mina mitt mot mycket "
		"ned nej ni nog nu när någon något några och också om oss på sig sin sina sitt själv ska skall skulle som så sådan sådana "
		"sådant till under upp ur ut utan vad var vara varför varit varje vars vart vem vi vid vilka vilkas vilken vilket vill vår "
		"våra vårt än åt är över",
	[LANGUAGE_TURKISH] =
		"acaba ama ancak artık aslında az bana bazı belki ben benden beni benim beri bile bir biri birkaç birçok biz bizden bize bizi "
		"bizim bu buna bunda bundan bunlar bunları bunların bunu bunun burada çok çünkü da daha dahi de değil diğer diye dolayı en "
		"eğer fakat gibi göre hangi hani hatta hem henüz hep hepsi her hiç için ile ise işte kadar karşın kendi kendine ki kim kime "
		"kimi kimse mı mi mu mü nasıl ne neden nerede nereye niçin niye o olan olarak oldu olduğu olmak olmayan olsa olup olur ona "
		"ondan onlar onlara onları onların onu onun oysa öyle rağmen sana sen senden seni senin siz sizden size sizi sizin sonra şey "
		"şimdi şöyle şu şuna şunu tüm üzere var ve veya ya yalnız yani yine yok zaten",
	[LANGUAGE_CATALAN] =
		"a abans ací ah així al als allò amb aquell aquella aquelles aquells aquest aquesta aquestes aquests aquí c cada com d de del "
		"dels des després doncs durant e el ell ella elles ells els em en encara ens entre era eren érem es és esta està estan estava "
		"et ets fins fou ha hagi han has haver havia he hem heu hi ho i ja jo l la les li llavors lo m ma mai mateix mentre mes més "
		"meu meva meus meves molt n na ni no nos nosaltres nostra nostre nostres o on pel pels per perquè però poc qual qualsevol quan "
		"que què qui s sa se sense ser serà seu seva seus seves si sí sobre sóc solament sols som són sota sou t ta també te tenir "
		"teu teva teus teves tot tota tots totes tu un una unes uns us va vaig van vos vosaltres",
	[LANGUAGE_GREEK] =
		"αλλά αν αντί από απ ασ αυτά αυτέσ αυτή αυτό αυτοί αυτού αυτούσ αυτόσ αυτών αφού για γι γιατί δα δε δεν εάν εγώ εδώ είμαι "
		"είμαστε είναι είσαι είστε είχα είχαν είχε εκεί εκείνα εκείνη εκείνο εκείνοι εκείνοσ εμάσ εμείσ εμένα ένα έναν ένασ ενώ εσάσ "
		"εσείσ εσύ έτσι έχει έχουμε έχουν έχω η ή ήδη ήμουν ήταν θα ι ίδια ίδιο ίδιοσ ίσωσ κ και κάθε καθώσ κατά κάτι κι λοιπόν μ μα "
		"μασ με μέσα μετά μέχρι μη μην μία μια μου μόνο να ο οι όλα όλοι όλοσ όμωσ όπωσ όποιοσ όποια όποιο όσο όταν ότι οπότε ού ούτε "
		"όχι παρά πια πιο πολύ που ποια ποιο ποιοι ποιοσ ποιόν πού πριν προσ πρώτα πωσ πώσ σ σαν σασ σε σου στα στη στην στισ στο "
		"στον στουσ τα τεσ τη την τησ τι τισ το τον του τουσ τότε των χωρίσ ω ωσ ώστε",
	[LANGUAGE_INDONESIAN] =
		"ada adalah agar akan aku anda antara apa apabila apakah atas atau bagaimana bagi bahwa banyak beberapa belum berapa bila bisa "
		"boleh bukan dalam dan dapat dari daripada dengan di dia hanya harus hingga ia ialah ini itu jadi jangan jika juga kalau kami "
		"kamu karena ke kepada ketika kita lagi lah lain lebih maka mana masih melainkan mengapa mereka namun oleh pada padahal para "
		"per pernah pula pun saat saja sampai sangat saya sebab sebagai sebelum sebuah sedang sehingga sekarang selain selalu semua "
		"seorang seperti serta sesudah setelah setiap siapa suatu sudah supaya tanpa tapi telah tentang tersebut tetapi tiap tidak "
		"untuk yaitu yakni yang",
};
/* clang-format on */
